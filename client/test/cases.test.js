/** The rules of docs/clients.md, by the table that every client can run: client/cases. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { ask, run } from "./run_case.js";

const file = (name) => fileURLToPath(new URL(`../cases/${name}`, import.meta.url));
const { answers, cases } = JSON.parse(readFileSync(file("cases.json"), "utf8"));
const standIn = spawn("python3", [file("stand_in.py"), "--port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
const ended = once(standIn, "exit");
after(() => standIn.kill());
const [said] = await once(standIn.stdout.setEncoding("utf8"), "data");
const next = said.match(/http:\S+/)[0];

for (const { name } of cases) {
  test(name, async () => {
    const one = JSON.parse((await ask("GET", next)).text);
    assert.equal(one.name, name);
    assert.deepEqual(await run(one), []);
  });
}

test("the stand-in ends by itself, and says that all has passed", async () => {
  assert.deepEqual(await ended, [0, null]);
});

test("every answer of the table is given in a case", () => {
  const given = new Set(cases.flatMap((one) => one.answers));
  assert.deepEqual(Object.keys(answers).filter((name) => !given.has(name)), []);
});
