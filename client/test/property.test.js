/** Whatever is answered, and whatever a page does: no storm, no false start, no false end. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { World } from "./world.js";

const RUNS = 400;
const { answers } = JSON.parse(readFileSync(new URL("../cases/cases.json", import.meta.url)));
const NAMES = Object.keys(answers);
const GOOD = NAMES.filter((name) =>
  /^(started|alive|replayed|ended$|expired|not found|limit)/.test(name),
);
const EVENTS = ["online", "focus", "pageshow", "pagehide", "visibilitychange", "resume"];

/** Random numbers from 0 to 1 that a seed fixes (mulberry32). */
const numbers = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

/** One life of a client among random answers and events; what was asked and told. */
const live = async (seed) => {
  const random = numbers(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const world = new World();
  try {
    world.random = random;
    // Some networks are mostly good, some never: both kinds of lives have to be lived.
    const goodness = random();
    world.network = (request) => {
      const name = pick(random() < goodness ? GOOD : NAMES);
      const answer = answers[name];
      request.answer = name;
      world.delay = random() < 0.5 ? 0 : random() * 4000;
      if (answer.hangs) return undefined;
      return answer.error ? new TypeError("no network") : { type: null, ...answer };
    };
    const headers = [
      undefined,
      { Authorization: "x" },
      () => ({ Authorization: "x" }),
      async () => undefined,
      () => new Promise((resolve) => setTimeout(resolve, random() * 12_000)),
      () => new Promise(() => {}),
      async () => { throw new Error("no token"); },
    ];
    let tokens = 0; // asked for
    const chosen = pick(headers);
    const counted = (state) => (tokens++, chosen(state));
    const options = {
      deviceId: random() < 0.5 ? "one" : false,
      graceSeconds: pick([undefined, Infinity, NaN, 0, 5, 60, 1e12]),
      headers: typeof chosen === "function" ? counted : chosen,
      credentials: pick([undefined, "include"]),
    };
    const playing = world.play(options);
    for (let step = 0; step < 60; step++) {
      await world.pass(pick([0, 0.01, 0.3, 1, 5, 40]) * random());
      if (random() < 0.4) world.dispatch(pick(EVENTS));
      if (random() < 0.02) world.sleep(random() * 600);
      if (random() < 0.01) playing.stop();
    }
    const { state } = playing;
    const before = world.requests.length + tokens;
    await world.pass(4000);
    const tries = world.requests.length + tokens - before;
    const [requests, told] = [[...world.requests], [...world.told]];
    return { requests, told, options, playing, state, tries, timers: world.timers };
  } finally {
    await world.close();
  }
};

const lives = [];
test("random lives are lived", async () => {
  for (let seed = 1; seed <= RUNS; seed++) lives.push({ seed, ...(await live(seed)) });
  const told = lives.flatMap((life) => life.told);
  const count = (event) => told.filter(([name]) => name === event).length;
  // Else the properties below would hold of nothing.
  for (const event of ["onStarted", "onResumed", "onRefused", "onEnded", "onOffline", "onOnline"])
    assert.ok(count(event) >= 20, `${event}: ${count(event)}`);
  assert.ok(lives.flatMap(({ requests }) => requests).filter(({ options }) => !options.redirect).length >= 20);
});

test("no course of events sends more than one request a second after the first three", () => {
  for (const { seed, requests } of lives) {
    for (let from = 0; from < requests.length; from++) {
      for (let to = from; to < requests.length; to++) {
        const seconds = requests[to].at - requests[from].at;
        if (seconds > 30) break;
        const count = to - from + 1;
        assert.ok(count <= 3 + seconds + 1e-6, `seed ${seed}: ${count} in ${seconds} s`);
      }
    }
  }
});

test("but for the last word of a page that goes, they are a second apart", () => {
  const last = ({ options }) => !options.redirect;
  for (const { seed, requests } of lives) {
    requests.forEach((request, index) => {
      if (index < 3 || last(request)) return;
      const seconds = request.at - requests[index - 1].at;
      assert.ok(seconds >= 1 - 1e-6, `seed ${seed}: ${seconds} s before request ${index}`);
    });
  }
});

test("only a start carries headers, the rest goes to the lease that a start told, and nobody else hears of it", () => {
  for (const { seed, requests, told, playing } of lives) {
    const leases = new Set();
    for (const { path, headers, answer } of requests) {
      if (path === "/streams") leases.add(answers[answer].body?.lease_id);
      else {
        const [, lease] = path.match(/^\/streams\/([^/]+)\/(heartbeat|stop)$/);
        assert.ok(leases.has(lease), `seed ${seed}: ${path}`);
        assert.deepEqual(headers, {}, `seed ${seed}`);
      }
    }
    const said = JSON.stringify([told, playing.stream, told.map(([, , error]) => error?.message)]);
    assert.doesNotMatch(said, /lease/, `seed ${seed}`);
  }
});

test("a film starts only on a stream of the service's, and ends only by its word", () => {
  const ends = {
    stopped: ["stopped"],
    replaced: ["replaced"],
    revoked: ["ended for a reason of a later version"],
    rejected: NAMES.filter((name) => answers[name].status >= 400 && answers[name].status < 500),
  };
  for (const { seed, told, requests, options } of lives) {
    const answered = (at) => requests.filter((one) => one.at <= at).map(({ answer }) => answer);
    let started = false;
    for (const [event, at, detail] of told) {
      const so = `seed ${seed}: ${event} ${at}`;
      if (event === "onStarted" || event === "onResumed") {
        assert.match(detail.stream_id, /^([01]-[ab]|open)$/, so);
        assert.ok(answered(at).some((name) => /^(started|alive|replayed|made up)/.test(name)), so);
        assert.equal(event === "onResumed", started, so);
        started = true;
      }
      if (event === "onRefused") assert.ok(answered(at).includes("limit reached"), so);
      if (event !== "onEnded") continue;
      if (detail === "unreachable") assert.ok(options.graceSeconds <= 60, so);
      else assert.ok(answered(at).some((name) => ends[detail].includes(name)), `${so} ${detail}`);
      if (detail === "rejected") assert.ok(!started, so);
    }
  }
});

test("what is told once is told once, and nothing after the end", () => {
  for (const { seed, told } of lives) {
    const names = told.map(([name]) => name);
    const ends = names.filter((name) => name === "onRefused" || name === "onEnded");
    assert.ok(ends.length <= 1, `seed ${seed}`);
    if (ends.length) assert.equal(names.at(-1), ends[0], `seed ${seed}`);
    for (const once of ["onStarted", "onUnavailable"])
      assert.ok(names.filter((name) => name === once).length <= 1, `seed ${seed}: ${once}`);
    const turns = names.filter((name) => name === "onOffline" || name === "onOnline");
    turns.forEach((name, index) =>
      assert.equal(name, index % 2 ? "onOnline" : "onOffline", `seed ${seed}: ${turns}`),
    );
  }
});

test("it goes on asking for as long as it is not over, and then leaves nothing behind", () => {
  for (const { seed, state, playing, tries, timers } of lives) {
    if (playing.state !== "over") assert.ok(tries >= 1, `seed ${seed}: fell asleep`);
    if (state === "over") assert.equal(timers, 0, `seed ${seed}: ${timers} timers are left`);
  }
});
