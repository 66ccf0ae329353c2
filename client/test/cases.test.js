/** The rules of docs/clients.md, by the table that every client can run: cases.json. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { run } from "./run_case.js";

const { answers, cases } = JSON.parse(readFileSync(new URL("cases.json", import.meta.url)));

for (const one of cases) {
  test(one.name, async () => {
    const { requests, told, labels, stopped, state } = one;
    const outcome = await run(one, answers);
    if (!labels) delete outcome.labels;
    assert.deepEqual(outcome, { requests, told, ...(labels ? { labels } : {}), stopped, state });
  });
}

test("every answer of the table is given in a case", () => {
  const given = new Set(cases.flatMap((one) => one.answers));
  assert.deepEqual(Object.keys(answers).filter((name) => !given.has(name)), []);
});
