/** The client on a page: what the table of cases, which is for every kind of client, cannot tell. */
import assert from "node:assert/strict";
import { test } from "node:test";

import * as answers from "./world.js";
import { World, away, beaten, ended, service, started, stopped, storage, stream } from "./world.js";

/** A test in a world of its own, which is taken down whatever happens. */
const on_a_page = (name, run) =>
  test(name, async () => {
    const world = new World();
    try {
      await run(world);
    } finally {
      await world.close();
    }
  });

const in_turn = (...list) => (_, index) => list[Math.min(index, list.length - 1)];

// Stop

on_a_page("a component that is mounted, unmounted and mounted again starts one stream", async (world) => {
  world.network = service(1);
  const first = world.play();
  const done = first.stop();
  world.play();
  await world.pass(1);
  assert.equal(await done, true);
  assert.deepEqual(world.asked, ["/streams"]);
  assert.deepEqual(world.names(), ["onStarted"]);
});

for (const waits of [true, false]) {
  const how = waits ? "awaited" : "not awaited";
  on_a_page(`stop, ${how}, and then play at the limit is admitted`, async (world) => {
    world.network = service(1);
    world.delay = 300;
    const first = world.play();
    await world.pass(5);
    const done = first.stop();
    if (waits) await Promise.all([done, world.pass(1)]);
    world.play();
    await world.pass(2);
    assert.equal(await done, true);
    assert.deepEqual(world.names(), ["onStarted", "onStarted"]);
    assert.equal(world.network.active.size, 1);
  });
}

on_a_page("a start waits three seconds for a stop that nobody answers, and no longer", async (world) => {
  world.network = in_turn(started(), undefined);
  const first = world.play();
  await world.pass(5);
  first.stop();
  world.play();
  await world.pass(2.9);
  assert.deepEqual(world.asked, ["/streams", "0-abc/stop"]);
  await world.pass(0.2);
  assert.deepEqual(world.asked, ["/streams", "0-abc/stop", "/streams"]);
});

on_a_page("stop while the start is under way ends what the answer brings", async (world) => {
  world.network = service();
  world.delay = 2000;
  const playing = world.play();
  await world.pass(1);
  const done = playing.stop();
  await world.pass(5);
  assert.equal(await done, true);
  assert.deepEqual(world.asked, ["/streams", "0-id/stop"]);
  assert.deepEqual(world.told, []);
  assert.equal(world.network.active.size, 0);
});

on_a_page("stop takes eleven seconds at most, also when a start was under way", async (world) => {
  world.network = in_turn(started(), undefined);
  world.delay = 9000;
  const playing = world.play();
  await world.pass(0.5);
  let took;
  playing.stop().then((done) => (took = [world.now / 1000 - 0.5, done]));
  await world.pass(60);
  assert.deepEqual(world.asked, ["/streams", "0-abc/stop"]);
  assert.ok(took[0] <= 11, `${took[0]} s`);
  assert.equal(took[1], false);
  assert.equal(world.timers, 0);
});

on_a_page("stop waits ten seconds at most for headers that do not come", async (world) => {
  world.network = service();
  world.play().stop();
  world.network = in_turn(started(), undefined);
  const first = world.play();
  await world.pass(1);
  first.stop(); // is not answered: the next start lets it go first, for three seconds
  const second = world.play({ headers: () => new Promise(() => {}) });
  await world.pass(0.1);
  let took;
  second.stop().then(() => (took = world.now / 1000 - 1.1));
  await world.pass(60);
  assert.ok(took <= 10, `${took} s`);
  assert.equal(second.state, "over");
});

on_a_page("stop goes by a request that outlives the page, and is one however often", async (world) => {
  world.network = service();
  const playing = world.play();
  await world.pass(5);
  assert.equal(playing.stop(), playing.stop());
  await world.pass(0);
  assert.deepEqual(world.asked, ["/streams", "0-id/stop"]);
  assert.equal(world.requests[1].options.keepalive, true);
  assert.equal(world.timers, 0);
  assert.equal(world.listeners, 0);
});

for (const late of [ended("replaced"), beaten(), new TypeError("no network")]) {
  const what = late.status ?? late.message;
  on_a_page(`after stop, a heartbeat under way changes nothing: ${what}`, async (world) => {
    world.network = in_turn(started(), late, stopped());
    const playing = world.play();
    await world.pass(19);
    world.delay = 3000;
    await world.pass(1.1);
    world.delay = 0;
    playing.stop();
    const before = world.told.length;
    await world.pass(4);
    assert.deepEqual(world.asked, ["/streams", "0-abc/heartbeat", "0-abc/stop"]);
    assert.equal(world.told.length, before);
    assert.equal(playing.stream, null);
    assert.equal(world.timers, 0);
  });
}

for (const [what, late] of [
  ["a refusal", answers.refused()],
  ["no answer", new TypeError("no network")],
  ["401, with headers to be had", { status: 401 }],
]) {
  on_a_page(`after stop, a start under way changes nothing: ${what}`, async (world) => {
    world.network = in_turn(late);
    world.delay = 500;
    const playing = world.play({ headers: () => ({}), deviceId: "one" });
    await world.pass(0.1);
    playing.stop();
    await world.pass(0.5);
    assert.equal(world.timers, 0);
    await world.pass(20);
    assert.deepEqual(world.told, []);
    assert.equal(world.requests.length, 1);
  });
}

for (const late of [ended("expired"), answers.problem(404, "stream-not-found")]) {
  on_a_page(`while a stop is tried again, a late ${late.status} does not bring it back`, async (world) => {
    world.network = in_turn(started(), late, undefined);
    const playing = world.play();
    await world.pass(19);
    world.delay = 3000;
    await world.pass(1.1);
    playing.stop();
    await world.pass(60);
    assert.equal(playing.state, "over");
    assert.ok(world.asked.slice(2).every((path) => path === "0-abc/stop"));
  });
}

on_a_page("stop in an outage leaves nothing behind", async (world) => {
  world.network = in_turn(started(), away(1), stopped());
  const playing = world.play({ graceSeconds: 1000 });
  await world.pass(20.5);
  playing.stop();
  await world.pass(2);
  assert.equal(world.timers, 0);
});

on_a_page("stop while headers are waited for sends no start", async (world) => {
  world.network = service();
  const headers = () => new Promise((resolve) => setTimeout(() => resolve({}), 500));
  const playing = world.play({ headers });
  await world.pass(0.1);
  const done = playing.stop();
  await world.pass(20);
  assert.equal(await done, true);
  assert.deepEqual(world.asked, []);
});

on_a_page("an app that stops when a request failed leaves nothing behind", async (world) => {
  world.network = in_turn(started(), away(), stopped());
  const playing = world.play({ graceSeconds: 1000, onError: () => playing.stop() });
  await world.pass(25);
  assert.equal(world.timers, 0);
  assert.deepEqual(world.names(), ["onStarted"]);
});

on_a_page("a stream that is stopped when it starts sends no heartbeat", async (world) => {
  world.network = service();
  const playing = world.play({ onStarted: () => playing.stop() });
  await world.pass(100);
  assert.deepEqual(world.asked, ["/streams", "0-id/stop"]);
});

on_a_page("an app that stops when it is online again hears of no heartbeat", async (world) => {
  world.network = in_turn(started(), away(), beaten(), stopped());
  const playing = world.play({ onOnline: () => playing.stop() });
  await world.pass(60);
  assert.ok(!world.told.some(([name]) => name === "onBeat"));
  assert.equal(world.asked.at(-1), "0-abc/stop");
});

on_a_page("an abort is a stop, and one of before asks nothing", async (world) => {
  world.network = service();
  const abort = new AbortController();
  const playing = world.play({ signal: abort.signal });
  await world.pass(5);
  abort.abort();
  await world.pass(5);
  assert.equal(playing.state, "over");
  assert.deepEqual(world.asked, ["/streams", "0-id/stop"]);
  const late = world.play({ signal: abort.signal });
  await world.pass(5);
  assert.equal(late.state, "over");
  assert.equal(world.requests.length, 2);
  assert.deepEqual(world.names(), ["onStarted"]);
});

on_a_page("a signal that lives longer than the stream holds nothing of it", async (world) => {
  world.network = in_turn(started(), ended("stopped"));
  const listeners = new Set();
  const signal = {
    aborted: false,
    addEventListener: (_, run) => listeners.add(run),
    removeEventListener: (_, run) => listeners.delete(run),
  };
  world.play({ signal });
  assert.equal(listeners.size, 1);
  await world.pass(25);
  assert.equal(listeners.size, 0);
});

on_a_page("several players on one page have a stream each", async (world) => {
  world.network = service(2);
  const [one, two] = [world.play(), world.play()];
  await world.pass(1);
  assert.notEqual(one.stream.stream_id, two.stream.stream_id);
  one.stop();
  await world.pass(30);
  assert.equal(two.state, "playing");
  assert.deepEqual([...world.network.active.keys()], [two.stream.stream_id]);
});

// What is sent

on_a_page("headers are asked for before each start, and cannot take the key's place", async (world) => {
  world.network = in_turn(started(), ended("expired"), started(), beaten());
  let count = 0;
  const headers = async () => new Headers({ Authorization: `token ${count++}`, "Idempotency-Key": "x" });
  world.play({ headers });
  await world.pass(50);
  const sent = world.requests.map((one) => one.headers.authorization);
  assert.deepEqual(sent, ["token 0", undefined, "token 1", undefined]);
  assert.notEqual(world.requests[0].headers["idempotency-key"], "x");
});

on_a_page("what needs no login carries no header: no page of another origin asks for leave first", async (world) => {
  world.network = in_turn(started(), beaten(), stopped());
  const playing = world.play({ headers: { "X-Player": "test" } });
  await world.pass(25);
  playing.stop();
  await world.pass(1);
  assert.equal(world.requests[0].headers["x-player"], "test");
  for (const { headers, body } of world.requests.slice(1)) assert.deepEqual([headers, body], [{}, undefined]);
});

on_a_page("a heartbeat is sent though no headers can be had, and who was signed out hears it", async (world) => {
  world.network = in_turn(started(), ended("stopped"));
  let calls = 0;
  world.play({ headers: async () => { if (calls++) throw new Error("signed out"); } });
  await world.pass(25);
  assert.deepEqual(world.asked, ["/streams", "0-abc/heartbeat"]);
  assert.deepEqual(world.told.at(-1).slice(0, 3), ["onEnded", 20, "stopped"]);
});

on_a_page("headers that do not come are no answer, and are not sent when they come late", async (world) => {
  world.network = in_turn(started());
  let late;
  let asked = 0;
  const headers = () => (asked++ === 0 ? new Promise((resolve) => (late = resolve)) : {});
  world.play({ headers });
  await world.pass(10.1);
  assert.deepEqual(world.names(), ["onUnavailable"]);
  late({ Authorization: "late" });
  await world.pass(30);
  assert.ok(world.requests.length >= 1);
  assert.ok(world.requests.every((one) => one.headers.authorization === undefined));
});

on_a_page("headers that cannot be had are no answer", async (world) => {
  world.network = in_turn(started());
  world.play({ headers: () => { throw new Error("no token"); } });
  await world.pass(60);
  assert.deepEqual(world.names(), ["onUnavailable"]);
  assert.equal(world.requests.length, 0);
});

for (const [what, thrown] of [
  ["undefined", undefined],
  ["null", null],
  ["a text", "no token"],
  ["an object without a prototype", Object.create(null)],
]) {
  on_a_page(`headers that throw ${what} are no answer, and an error as any other`, async (world) => {
    world.network = service();
    let calls = 0;
    const playing = world.play({ headers: async () => { if (calls++ < 3) throw thrown; } });
    await world.pass(60);
    assert.equal(playing.state, "playing");
    assert.deepEqual(world.names(), ["onUnavailable", "onStarted"]);
    const [[, , error]] = world.told;
    assert.ok(error instanceof Error);
    assert.equal(error.cause, thrown);
  });
}

for (const retryAfter of [NaN, Infinity, 1e12, -1, "soon"]) {
  for (const status of [401, 403, 503]) {
    on_a_page(`what an error of the app's says is not the service's: ${status}, ${retryAfter}`, async (world) => {
      const calls = [];
      const headers = ({ refused }) => {
        calls.push([world.now / 1000, refused]);
        throw Object.assign(new Error("no token"), { status, retryAfter, problem: { status: 400 } });
      };
      const playing = world.play({ headers });
      await world.pass(30);
      assert.deepEqual(calls, [0, 1.5, 4.5, 10.5, 22.5].map((at) => [at, false]));
      assert.equal(playing.state, "starting");
      const errors = world.told.filter(([name]) => name === "onError").map(([, , error]) => error);
      assert.equal(errors.length, 5);
      for (const error of errors) {
        assert.equal(error.message, "no token");
        assert.deepEqual([error.status, error.retryAfter, error.problem], [undefined, undefined, undefined]);
      }
    });
  }
}

on_a_page("headers that throw while the network comes and goes are asked for once a second", async (world) => {
  let calls = 0;
  world.play({ headers: () => { calls++; throw new Error("no token"); } });
  for (let turn = 0; turn < 100; turn++) {
    await world.pass(0.1);
    world.dispatch("online");
  }
  assert.ok(calls >= 8 && calls <= 12, `${calls} in 10 seconds`);
});

on_a_page("headers are asked for when it is their turn, not before", async (world) => {
  world.network = in_turn(started(), ended("expired"), { status: 401 });
  const asked = [];
  world.play({ headers: ({ refused }) => void asked.push([world.now / 1000, refused]) });
  await world.pass(23);
  world.network = in_turn(started());
  await world.pass(2);
  assert.deepEqual(asked, [[0, false], [22.5, false], [23.5, true]]);
});

on_a_page("another origin gets credentials if the app says so, and no redirect is followed", async (world) => {
  world.network = in_turn(started(), beaten());
  world.play({ url: "https://gateway.example/video/", credentials: "include" });
  await world.pass(21);
  const [start, beat] = world.requests;
  assert.equal(start.path, "https://gateway.example/video/streams");
  assert.equal(beat.path, "https://gateway.example/video/streams/lease-0-abc/heartbeat");
  for (const { options } of world.requests) {
    assert.equal(options.credentials, "include");
    assert.equal(options.redirect, "error");
  }
});

on_a_page("a device has one id, which the browser keeps", async (world) => {
  globalThis.localStorage = storage();
  world.network = service();
  world.play();
  world.play();
  await world.pass(1);
  const [one, two] = world.requests.map(({ body }) => body.device_id);
  assert.match(one, /^[\w-]{10,128}$/);
  assert.equal(two, one);
  assert.deepEqual(Object.values(globalThis.localStorage.kept), [one]);
});

on_a_page("where the browser keeps nothing, the id is the page's", async (world) => {
  Object.defineProperty(globalThis, "localStorage", {
    configurable: true,
    get: () => { throw new Error("SecurityError"); },
  });
  world.network = service();
  world.play();
  world.play();
  await world.pass(1);
  const [one, two] = world.requests.map(({ body }) => body.device_id);
  assert.match(one, /^[\w-]{10,128}$/);
  assert.equal(two, one);
});

on_a_page("an id that somebody else kept is cut to what the service takes", async (world) => {
  globalThis.localStorage = storage({ "stream-service.device-id": "x".repeat(500) });
  world.network = service();
  world.play();
  await world.pass(1);
  assert.equal(world.requests[0].body.device_id.length, 128);
});

on_a_page("an app may name the device itself, or not at all", async (world) => {
  world.network = service();
  world.play({ deviceId: "set-top box 7" });
  world.play({ deviceId: false });
  await world.pass(1);
  assert.deepEqual(world.requests.map(({ body }) => body.device_id), ["set-top box 7", undefined]);
});

on_a_page("the platform is sent, unless the service would refuse the start for it", async (world) => {
  world.network = service();
  const platforms = ["web 3.4.1", "tizen", "web  3", "web 3 beta", "x".repeat(41), "", null];
  for (const platform of platforms) world.play({ platform });
  await world.pass(10);
  assert.deepEqual(
    world.requests.map(({ body }) => body.platform),
    ["web 3.4.1", "tizen", ...Array(5).fill(undefined)],
  );
});

on_a_page("a list of choices is sent as it is", async (world) => {
  world.network = service();
  world.play({ replace: ["same-device", "stalest"] });
  await world.pass(1);
  assert.deepEqual(world.requests[0].body.replace, ["same-device", "stalest"]);
});

// The next page of the tab

const ID = "0-AAAAAAAAAAAAAAAAAAAAAA";
const NEXT_ID = "0-BBBBBBBBBBBBBBBBBBBBBB";
const named = (world) => world.requests.filter(({ body }) => body).map(({ body }) => body.replace);

on_a_page("a page names the stream of the page before first, so that no reload is refused by itself", async (world) => {
  globalThis.sessionStorage = storage();
  world.network = in_turn(started({ stream_id: ID }), stopped(), started({ stream_id: NEXT_ID }), beaten());
  world.play({ replace: "stalest" });
  await world.pass(5);
  world.dispatch("pagehide");
  world.play({ replace: "stalest" });
  await world.pass(1);
  world.play();
  await world.pass(1);
  assert.deepEqual(named(world), ["stalest", [ID, "stalest"], undefined]);
});

on_a_page("a tab that is duplicated while it plays takes nobody's place", async (world) => {
  globalThis.sessionStorage = storage();
  world.network = in_turn(started({ stream_id: ID }), started({ stream_id: NEXT_ID }));
  world.play();
  await world.pass(5);
  const inherited = { ...globalThis.sessionStorage.kept };
  globalThis.sessionStorage = storage(inherited);
  world.play();
  await world.pass(1);
  assert.deepEqual(named(world), [undefined, undefined]);
});

on_a_page("a page that comes back from the cache plays on, and no twin takes its place", async (world) => {
  globalThis.sessionStorage = storage();
  world.network = in_turn(started({ stream_id: ID }), stopped(), beaten({ stream_id: ID }));
  world.play();
  await world.pass(5);
  world.dispatch("pagehide");
  world.dispatch("pageshow");
  await world.pass(1);
  world.play();
  await world.pass(1);
  assert.deepEqual(named(world), [undefined, undefined]);
});

on_a_page("a page that comes back finds its place taken by the page after it, and starts anew", async (world) => {
  world.network = in_turn(started({ stream_id: ID }), stopped(), ended("replaced"), started({ stream_id: NEXT_ID }), ended("replaced"));
  world.play({ replace: "stalest" });
  await world.pass(5);
  world.dispatch("pagehide");
  await world.pass(5);
  world.dispatch("pageshow");
  await world.pass(60);
  assert.deepEqual(named(world), ["stalest", undefined]);
  assert.deepEqual(world.names(), ["onStarted", "onResumed", "onEnded"]);
});

on_a_page("a stream whose stop nobody confirmed is named by the next start of the page", async (world) => {
  globalThis.sessionStorage = storage();
  world.network = in_turn(started({ stream_id: ID }), away());
  const playing = world.play();
  await world.pass(5);
  playing.stop();
  await world.pass(20);
  world.network = ({ path }) => (path.endsWith("/stop") ? stopped() : started({ stream_id: NEXT_ID }));
  const next = world.play();
  await world.pass(5);
  next.stop();
  await world.pass(5);
  world.play();
  await world.pass(1);
  assert.deepEqual(named(world), [undefined, [ID], undefined]);
});

on_a_page("a start that is tried again says the same, whatever happened meanwhile", async (world) => {
  globalThis.sessionStorage = storage();
  world.network = in_turn(away(), away(), started());
  const options = { device: "TV" };
  world.play(options);
  await world.pass(1);
  globalThis.sessionStorage.kept["stream-service.abandoned"] = JSON.stringify([ID]);
  await world.pass(20);
  const [first, ...more] = world.requests.filter(({ body }) => body);
  assert.equal(more.length, 2);
  for (const { body } of more) assert.deepEqual(body, first.body);
});

for (const kept of ["", "{", "null", "7", '"0-AAAAAAAAAAAAAAAAAAAAAA"', "{}", '["open", 7, null, ["0-AAAAAAAAAAAAAAAAAAAAAA"], "oldest"]']) {
  on_a_page(`what somebody else kept there is not sent: ${kept}`, async (world) => {
    globalThis.sessionStorage = storage({ "stream-service.abandoned": kept });
    world.network = service();
    world.play();
    await world.pass(1);
    assert.deepEqual(named(world), [undefined]);
    assert.deepEqual(world.names(), ["onStarted"]);
  });
}

on_a_page("it plays where the browser keeps nothing for a tab", async (world) => {
  Object.defineProperty(globalThis, "sessionStorage", {
    configurable: true,
    get: () => { throw new Error("SecurityError"); },
  });
  world.network = service();
  const playing = world.play();
  await world.pass(5);
  world.dispatch("pagehide");
  world.dispatch("pageshow");
  await world.pass(5);
  playing.stop();
  await world.pass(1);
  assert.equal(playing.state, "over");
});

on_a_page("an id that somebody else kept is sent well-formed", async (world) => {
  globalThis.localStorage = storage({ "stream-service.device-id": `${"x".repeat(127)}\u{1F3AC}\u{1F3AC}` });
  world.network = service();
  world.play();
  await world.pass(1);
  assert.equal(world.requests[0].body.device_id, `${"x".repeat(127)}\u{1F3AC}`);
});

// The secret

on_a_page("the lease id is told to nobody: not by a callback, nor by the stream, nor by an error", async (world) => {
  const leaky = new TypeError("error sending request for url (/streams/lease-0-abc/heartbeat)");
  world.network = in_turn(started({ playback_token: "one" }), leaky, beaten({ playback_token: "two" }), leaky);
  const playing = world.play();
  await world.pass(50);
  const said = [];
  const seen = new Set();
  const walk = (value) => {
    if (typeof value === "string") said.push(value);
    if (value === null || typeof value !== "object" || seen.has(value)) return;
    seen.add(value);
    for (const name of Object.getOwnPropertyNames(value)) walk(value[name]);
  };
  walk(world.told);
  walk(playing);
  assert.ok(said.includes("two"));
  assert.deepEqual(said.filter((text) => text.includes("lease")), []);
  const names = world.told.map(([name]) => name);
  for (const one of ["onStarted", "onBeat", "onOnline", "onError", "onOffline"]) assert.ok(names.includes(one), one);
});

on_a_page("a heartbeat's answer leaves of a stream what it does not say, but for the counts of its start", async (world) => {
  world.network = in_turn(started({ playback_token: "one" }), beaten({ playback_token: "two" }));
  const playing = world.play();
  await world.pass(21);
  const { active, limit, ...kept } = stream({ playback_token: "two", expires_at: "2026-01-01T00:01:20.000Z" });
  assert.deepEqual(playing.stream, kept);
  assert.deepEqual(world.told.at(-1), ["onBeat", 20, kept]);
});

// What is read

on_a_page("an answer without an end is read up to a megabyte, and is no answer", async (world) => {
  let read = 0;
  const endless = function* () {
    yield new TextEncoder().encode('{"stream_id":"0-abc","heartbeat_in":20,"device":"');
    while (read < 1000) yield (read++, new Uint8Array(2 ** 16).fill(0x78));
    yield new TextEncoder().encode('"}');
  };
  world.network = () => ({ status: 201, chunks: endless() });
  world.play();
  await world.pass(1);
  assert.deepEqual(world.names(), ["onUnavailable"]);
  assert.ok(read <= 17, `${read} chunks of 64 KiB`);
});

on_a_page("the longest refusal that the service can write is read, and text that is cut anywhere", async (world) => {
  const name = "\u{1F3AC}".repeat(200);
  const streams = Array.from({ length: 100 }, () => stream({ device: name, content: name }));
  const escaped = JSON.stringify(answers.refused().body).replace(/"streams":\[.*\]/, () => {
    const text = JSON.stringify(streams).replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt().toString(16)}`);
    return `"streams":${text}`;
  });
  assert.ok(escaped.length > 450_000);
  const bytes = new TextEncoder().encode(escaped);
  const first = new TextEncoder().encode(JSON.stringify(started({ device: name }).body));
  world.network = in_turn(
    { ...started(), chunks: [...first].map((byte) => Uint8Array.of(byte)).values() },
    { ...answers.refused(), chunks: [bytes].values() },
  );
  const playing = world.play();
  await world.pass(1);
  assert.equal(playing.stream.device, name);
  world.play();
  await world.pass(1);
  const [, , refusal] = world.told.find(([event]) => event === "onRefused");
  assert.equal(refusal.streams.length, 100);
  assert.equal(refusal.streams[99].content, name);
});

on_a_page("it plays where answers cannot be read bit by bit", async (world) => {
  world.network = in_turn({ ...started(), streams: false });
  const playing = world.play();
  await world.pass(1);
  assert.equal(playing.state, "playing");
});

// The page

on_a_page("a page that goes says so by a beacon", async (world) => {
  world.network = service();
  world.play();
  await world.pass(20.1);
  world.dispatch("pagehide");
  const { path, beacon, at } = world.requests.at(-1);
  assert.deepEqual([path, beacon, at], ["/streams/lease-0-id/stop", true, 20.1]);
});

for (const options of [{ headers: async () => ({ Authorization: "x" }) }, { credentials: "include" }]) {
  on_a_page(`the last word of a page needs no login: ${Object.keys(options)}`, async (world) => {
    world.network = service();
    world.play(options);
    await world.pass(5);
    world.dispatch("pagehide");
    assert.equal(world.requests.at(-1).beacon, true);
  });
}

for (const [what, options] of [
  ["may send no cookies", { credentials: "omit" }],
  ["has no beacons", {}],
]) {
  on_a_page(`a page that goes and ${what} says so by a request that outlives it`, async (world) => {
    world.network = service();
    if (!options.credentials) delete globalThis.navigator.sendBeacon;
    world.play(options);
    await world.pass(5);
    world.dispatch("pagehide");
    const last = world.requests.at(-1);
    assert.equal(last.path, "/streams/lease-0-id/stop");
    assert.equal(last.options.keepalive, true);
    assert.equal(last.options.credentials, options.credentials);
    await world.pass(1);
  });
}

on_a_page("a page that has no stream says nothing when it goes", async (world) => {
  world.network = in_turn(answers.refused());
  world.play();
  await world.pass(5);
  world.dispatch("pagehide");
  assert.equal(world.requests.length, 1);
});

on_a_page("a page that comes back from the cache goes on in a stream of its own", async (world) => {
  world.network = service(1);
  world.play();
  await world.pass(5);
  world.dispatch("pagehide");
  await world.pass(2);
  world.dispatch("pageshow");
  await world.pass(7);
  assert.deepEqual(world.asked, ["/streams", "0-id/stop", "0-id/heartbeat", "/streams"]);
  assert.deepEqual(world.names(), ["onStarted", "onResumed"]);
  // The same, once more.
  world.dispatch("pagehide");
  await world.pass(2);
  world.dispatch("pageshow");
  await world.pass(7);
  assert.deepEqual(world.names(), ["onStarted", "onResumed", "onResumed"]);
});

on_a_page("a page that comes back, and whose last word was lost, goes on in its stream", async (world) => {
  world.network = in_turn(started(), stopped(), beaten());
  const playing = world.play();
  await world.pass(5);
  world.dispatch("pagehide");
  await world.pass(2);
  world.dispatch("pageshow");
  await world.pass(5);
  assert.deepEqual(world.names(), ["onStarted"]);
  assert.equal(playing.state, "playing");
  world.dispatch("pagehide");
  assert.equal(world.asked.at(-1), "0-abc/stop");
});

on_a_page("a page that came back and beat knows that a later stop is somebody else's", async (world) => {
  world.network = in_turn(started(), stopped(), beaten(), ended("stopped"));
  world.play();
  await world.pass(5);
  world.dispatch("pagehide");
  await world.pass(2);
  world.dispatch("pageshow");
  await world.pass(60);
  assert.deepEqual(world.asked, ["/streams", "0-abc/stop", "0-abc/heartbeat", "0-abc/heartbeat"]);
  assert.deepEqual(world.names(), ["onStarted", "onEnded"]);
});

on_a_page("a heartbeat that was under way when the page went tells nothing of its last word", async (world) => {
  world.network = in_turn(started(), beaten(), stopped(), ended("stopped"), started({ stream_id: "1-def" }));
  world.play();
  await world.pass(19);
  world.delay = 3000;
  await world.pass(2);
  world.dispatch("pagehide");
  world.delay = 0;
  await world.pass(3);
  world.dispatch("pageshow");
  await world.pass(30);
  assert.deepEqual(world.asked.slice(0, 5),
    ["/streams", "0-abc/heartbeat", "0-abc/stop", "0-abc/heartbeat", "/streams"]);
  assert.deepEqual(world.names().slice(0, 2), ["onStarted", "onResumed"]);
});

on_a_page("a page that goes and comes back in no time says so once", async (world) => {
  world.network = in_turn(started(), beaten(), stopped());
  world.play();
  await world.pass(20);
  for (let turn = 0; turn < 10; turn++) {
    world.dispatch("pagehide");
    world.dispatch("pageshow");
  }
  assert.deepEqual(world.asked, ["/streams", "0-abc/heartbeat", "0-abc/stop"]);
});

on_a_page("a page that goes and comes back again and again is no storm", async (world) => {
  world.network = in_turn(started(), beaten());
  world.play();
  await world.pass(20);
  for (let turn = 0; turn < 40; turn++) {
    world.dispatch("pagehide");
    world.dispatch("pageshow");
    await world.pass(0.55);
  }
  const sent = world.requests.filter(({ at }) => at >= 20);
  assert.ok(sent.some(({ beacon }) => beacon));
  assert.ok(sent.length <= 3 + 22, `${sent.length} requests in 22 seconds`);
});

on_a_page("a stream that somebody else stopped does not come back", async (world) => {
  world.network = in_turn(started(), stopped(), ended("stopped"), started({ stream_id: "1-def" }),
    ended("stopped"));
  const playing = world.play();
  await world.pass(5);
  world.dispatch("pagehide");
  world.dispatch("pageshow");
  await world.pass(6);
  assert.equal(playing.stream.stream_id, "1-def");
  await world.pass(60);
  assert.deepEqual(world.names(), ["onStarted", "onResumed", "onEnded"]);
});

on_a_page("a page that goes while a stop is tried again says so once more", async (world) => {
  world.network = in_turn(started(), away(), stopped());
  const playing = world.play();
  await world.pass(5);
  playing.stop();
  await world.pass(0.1);
  world.dispatch("pagehide");
  assert.deepEqual(world.asked, ["/streams", "0-abc/stop", "0-abc/stop"]);
  assert.equal(world.requests.at(-1).beacon, true);
});

for (const event of ["focus", "pageshow", "visibilitychange", "resume", "online"]) {
  on_a_page(`a device that slept past its heartbeat sends it at once, on ${event}`, async (world) => {
    world.network = in_turn(started(), beaten());
    world.play();
    await world.pass(10);
    world.dispatch(event);
    await world.pass(1);
    assert.equal(world.requests.length, 1);
    world.sleep(600);
    world.dispatch(event);
    await world.pass(0.1);
    assert.deepEqual(world.asked, ["/streams", "0-abc/heartbeat"]);
  });
}

on_a_page("timers that run once a minute keep a stream whose lease is two", async (world) => {
  // Chromium runs the timers of a page that is hidden for long, and silent, at full minutes alone.
  const real = globalThis.setTimeout;
  globalThis.setTimeout = (run, delay = 0) => {
    const due = world.now + delay;
    return real(run, delay < 1 ? 0 : Math.ceil(due / 60_000) * 60_000 - world.now);
  };
  let last = 0;
  let longest = 0;
  world.network = ({ at }) => {
    longest = Math.max(longest, at - last);
    last = at;
    return started({ heartbeat_in: 40 });
  };
  world.play();
  await world.pass(1800);
  assert.ok(longest <= 60.001, `${longest} s`);
  assert.ok(world.requests.length >= 29);
});

for (const hours of [-1, 1]) {
  on_a_page(`a clock that is set by ${hours} hours makes nobody wait`, async (world) => {
    world.network = in_turn(started(), beaten());
    world.play();
    await world.pass(30);
    world.wall += hours * 3_600_000;
    await world.pass(55);
    world.wall -= hours * 3_600_000;
    await world.pass(20);
    assert.deepEqual(world.requests.map(({ at }) => at), [0, 20, 40, 60, 80, 100]);
  });
}

on_a_page("a network that comes back hurries nothing once it was answered", async (world) => {
  world.network = in_turn(started(), new TypeError("no network"), beaten());
  world.play();
  await world.pass(30);
  assert.equal(world.requests.length, 3);
  world.dispatch("online");
  await world.pass(5);
  assert.equal(world.requests.length, 3);
});

on_a_page("it plays where there is no window and no document", async (world) => {
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
  delete globalThis.document;
  world.network = service();
  const playing = world.play();
  await world.pass(21);
  playing.stop();
  await world.pass(2);
  assert.deepEqual(world.asked, ["/streams", "0-id/heartbeat", "0-id/stop"]);
});

// The app

on_a_page("a mistake in a callback is reported as the app's, and changes nothing", async (world) => {
  world.network = in_turn(started(), beaten());
  const mistake = new Error("the app's");
  world.play({ onStarted: () => { throw mistake; } });
  await world.pass(21);
  assert.deepEqual(world.thrown, [mistake]);
  assert.deepEqual(world.asked, ["/streams", "0-abc/heartbeat"]);
});

for (const graceSeconds of [undefined, Infinity, 1e9, NaN]) {
  on_a_page(`graceSeconds: ${graceSeconds} is for ever`, async (world) => {
    world.network = in_turn(started(), new TypeError("no network"));
    const playing = world.play({ graceSeconds });
    await world.pass(7200);
    assert.equal(playing.state, "playing");
    assert.deepEqual(world.names(), ["onStarted", "onOffline"]);
  });
}

on_a_page("an app that plays again when it is over finds the old one over", async (world) => {
  world.network = in_turn(started(), ended("stopped"), started({ stream_id: "1-def" }));
  const states = [];
  const playing = world.play({
    onEnded: () => {
      states.push(playing.state);
      world.play();
    },
  });
  await world.pass(30);
  assert.deepEqual(states, ["over"]);
  assert.equal(world.requests.length, 3);
});

// The fleet

on_a_page("a fleet that an outage of two leases threw out comes back spread", async (world) => {
  const players = 500;
  const [from, until] = [60_000, 180_000];
  let seed = 1;
  world.random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  const streams = new Map();
  let count = 0;
  world.network = ({ path }) => {
    if (world.now >= from && world.now < until) return away(1);
    if (path.endsWith("/streams")) {
      const stream_id = `${count++}-id`;
      streams.set(stream_id, world.now);
      return started({ stream_id });
    }
    const [, stream_id] = path.match(/([^/]+)\/heartbeat/);
    if (world.now - streams.get(stream_id) > 60_000) return ended("expired");
    streams.set(stream_id, world.now);
    return beaten({ stream_id, heartbeat_in: 18 + 4 * world.random() });
  };
  const all = Array.from({ length: players }, () => world.play({ onError: undefined }));
  await world.pass(260);
  assert.ok(all.every(({ state }) => state === "playing"));
  const resumed = world.told.filter(([name]) => name === "onResumed");
  assert.equal(resumed.length, players);
  const perSecond = new Map();
  for (const { at } of world.requests.filter((one) => one.at > until / 1000)) {
    perSecond.set(Math.floor(at), (perSecond.get(Math.floor(at)) ?? 0) + 1);
  }
  const usual = players / 20;
  const busiest = Math.max(...perSecond.values());
  console.log(`the busiest second has ${(busiest / usual).toFixed(1)} times the usual requests`);
  assert.ok(busiest < 4 * usual, `${busiest} requests in a second, usually ${usual}`);
});
