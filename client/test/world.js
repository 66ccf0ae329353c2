/**
 * A page without a browser: a clock that a test moves on, a network that answers as the test says,
 * and the events of a window. Client code sees them as the globals that it knows from a browser.
 */
import { setImmediate as breathe } from "node:timers/promises";

import { old_engine } from "./old_engine.js";

/** `STREAM_CLIENT=tv` has the tests run the build for old engines, with no more than such one has. */
export const TV = process.env.STREAM_CLIENT === "tv";
const { play } = TV ? old_engine() : await import("../stream-client.js");

const EVENTS = ["onStarted", "onBeat", "onResumed", "onRefused", "onEnded", "onUnavailable"];
export const CALLBACKS = [...EVENTS, "onOffline", "onOnline", "onError"];
const REPLACED = ["setTimeout", "clearTimeout", "fetch", "addEventListener", "removeEventListener"];

let began = 0; // as `performance.now` has it, which no page sees twice

export class World {
  now = 0; // milliseconds
  wall = Date.parse("2026-01-01T00:00:00Z"); // what the clock on the wall showed at 0
  requests = []; // { at, path, body, headers, options }
  told = []; // [event, at, ...details]
  thrown = [];
  random = () => 0.5;
  /** Answers a request: { status, type, headers, body, delay }, an Error, or undefined: never; or a promise. */
  network = () => undefined;
  delay = 0; // milliseconds until an answer that has none of its own
  asking = 0; // how many requests wait for such a promise: no time passes meanwhile
  #timers = new Map();
  #next = 1;
  #listeners = [];
  #before = {};

  constructor() {
    for (const name of REPLACED) this.#before[name] = globalThis[name];
    this.#before.now = Date.now;
    this.#before.performance = performance.now;
    this.#before.random = Math.random;
    globalThis.setTimeout = (run, delay = 0) => {
      // As in browsers: what does not fit into 31 bits is due at once.
      const at = this.now + (delay > 2 ** 31 - 1 ? 0 : Math.max(0, Number(delay) || 0));
      this.#timers.set(this.#next, { at, run });
      return this.#next++;
    };
    globalThis.clearTimeout = (id) => this.#timers.delete(id);
    globalThis.addEventListener = (type, run) => this.#listeners.push({ type, run });
    globalThis.removeEventListener = (type, run) => {
      this.#listeners = this.#listeners.filter((one) => one.type !== type || one.run !== run);
    };
    globalThis.document = { addEventListener, removeEventListener };
    const sendBeacon = (url) => this.#beacon(url);
    const navigator = TV ? {} : { sendBeacon };
    Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
    globalThis.fetch = (url, options) => this.#fetch(url, options);
    Date.now = () => this.wall + this.now;
    const start = (began += 1e9);
    performance.now = () => start + this.now;
    Math.random = () => this.random();
  }

  /** What is under way ends first: a stop that is tried again would make the next test wait. */
  async close() {
    await this.pass(30);
    for (const name of REPLACED) globalThis[name] = this.#before[name];
    Date.now = this.#before.now;
    performance.now = this.#before.performance;
    Math.random = this.#before.random;
    delete globalThis.document;
    delete globalThis.navigator;
    delete globalThis.localStorage;
    delete globalThis.sessionStorage;
  }

  /** The paths that were asked, without what all have in common; `0-abc` is the lease of that stream. */
  get asked() {
    return this.requests.map(({ path }) => path.replace("/streams/lease-", ""));
  }

  get listeners() {
    return this.#listeners.length;
  }

  get timers() {
    return this.#timers.size;
  }

  play(options = {}) {
    const told = CALLBACKS.map((name) => [
      name,
      (...details) => this.told.push([name, this.now / 1000, ...details]),
    ]);
    return play({ ...Object.fromEntries(told), ...options });
  }

  /** The events told so far, by name; without those of single heartbeats and errors. */
  names() {
    const quiet = ["onBeat", "onError"];
    return this.told.map(([name]) => name).filter((name) => !quiet.includes(name));
  }

  dispatch(type) {
    for (const one of [...this.#listeners]) if (one.type === type) one.run({ type });
  }

  /** Lets time pass; timers fire in their order, each at its moment. */
  async pass(seconds) {
    const until = this.now + seconds * 1000;
    await this.#settle();
    for (;;) {
      let [id, at, run] = [null, Infinity];
      for (const [one, timer] of this.#timers)
        if (timer.at < at) [id, at, run] = [one, timer.at, timer.run]; // the older of two first
      if (at > until) break;
      this.#timers.delete(id);
      this.now = Math.max(this.now, at);
      try {
        run();
      } catch (error) {
        this.thrown.push(error);
      }
      await this.#settle();
    }
    this.now = until;
  }

  /** The app is gone, and what it has sent is on its way. */
  async kill() {
    this.#timers.clear();
    this.#listeners = [];
    await this.#settle();
  }

  /** The device sleeps: its clock goes on, its timers do not. */
  sleep(seconds) {
    this.now += seconds * 1000;
    for (const timer of this.#timers.values()) timer.at += seconds * 1000;
  }

  /** Every promise that can go on does. */
  async #settle() {
    do await breathe();
    while (this.asking);
  }

  #beacon(url) {
    const request = { at: this.now / 1000, path: url, headers: {}, options: {}, beacon: true };
    this.requests.push(request);
    const answer = this.network(request, this.requests.length - 1);
    if (answer instanceof Promise) {
      this.asking += 1;
      answer.finally(() => (this.asking -= 1));
    }
    return true;
  }

  #fetch(url, options) {
    if (options.signal?.aborted) return Promise.reject(new TypeError("aborted"));
    const request = {
      at: this.now / 1000,
      path: url,
      body: options.body && JSON.parse(options.body),
      headers: Object.fromEntries(new Headers(options.headers)),
      options,
    };
    this.requests.push(request);
    const answer = this.network(request, this.requests.length - 1);
    if (!(answer instanceof Promise)) return this.#reply(answer, options);
    this.asking += 1;
    const reply = (one) => ((this.asking -= 1), this.#reply(one, options));
    return answer.then(reply);
  }

  #reply(answer, options) {
    if (answer?.status >= 300 && answer.status < 400 && options.redirect === "error")
      answer = new TypeError("redirected");
    return new Promise((resolve, reject) => {
      options.signal?.addEventListener("abort", () => reject(new TypeError("aborted")));
      if (answer === undefined) return;
      const settle = () => (answer instanceof Error ? reject(answer) : resolve(response(answer)));
      const delay = answer.delay || this.delay;
      if (delay) setTimeout(settle, delay);
      else settle();
    });
  }
}

/**
 * As much of a Response as the client reads, and no stream that takes real time. `chunks` is an
 * iterator of bytes; with `streams: false` it is a Response of React Native.
 */
const response = ({ status = 200, type = "application/json", headers = {}, body, chunks, streams = !TV }) => {
  const all = new Headers(headers);
  if (type) all.set("Content-Type", type);
  const whole = typeof body === "string" ? body : JSON.stringify(body) ?? "";
  const text = async () => whole;
  chunks ??= [new TextEncoder().encode(whole)].values();
  const getReader = () => ({ read: async () => chunks.next() });
  return { status, headers: all, text, body: streams ? { getReader } : undefined };
};

/** What a browser keeps, in memory. */
export const storage = (kept = {}) => ({
  kept,
  getItem: (name) => kept[name] ?? null,
  setItem: (name, value) => void (kept[name] = value),
});

const PROBLEM = "application/problem+json";

export const stream = (fields = {}) => ({
  stream_id: "0-abc",
  device: "TV",
  content: null,
  started_at: "2026-01-01T00:00:00.000Z",
  expires_at: "2026-01-01T00:01:00.000Z",
  heartbeat_in: 20,
  ...fields,
});

/** The secret of a stream, as the service below makes it; a test that greps for it looks for "lease". */
export const leaseOf = (stream_id) => `lease-${stream_id}`;

export const started = (fields) => {
  const body = stream({ active: 1, limit: 3, ...fields });
  return { status: 201, body: { lease_id: leaseOf(body.stream_id), ...body } };
};
export const beaten = ({ stream_id = "0-abc", heartbeat_in = 20, ...fields } = {}) => ({
  status: 200,
  body: { stream_id, expires_at: "2026-01-01T00:01:20.000Z", heartbeat_in, ...fields },
});
export const problem = (status, kind, fields = {}) => ({
  status,
  type: PROBLEM,
  body: { type: `urn:stream-service:problem:${kind}`, status, detail: kind, ...fields },
});
export const ended = (reason) => problem(410, "stream-ended", { reason });
export const refused = () =>
  problem(409, "limit-reached", { limit: 1, active: 1, streams: [stream()] });
export const away = (retryAfter) => ({
  ...problem(503, "unavailable"),
  headers: retryAfter === undefined ? {} : { "Retry-After": `${retryAfter}` },
});
export const stopped = () => ({ status: 204, type: null });

/** A service with this many slots, for tests in which the order of requests matters. */
export const service = (limit = 3) => {
  const active = new Map();
  let count = 0;
  const answer = ({ path, headers }) => {
    if (path.endsWith("/streams")) {
      const key = headers["idempotency-key"];
      for (const [stream_id, one] of active)
        if (one === key) return { ...started({ stream_id }), status: 200 };
      if (active.size >= limit) return refused();
      const stream_id = `${count++}-id`;
      active.set(stream_id, key);
      return started({ stream_id });
    }
    const [lease_id, verb] = path.split("/").slice(-2);
    const stream_id = lease_id.replace("lease-", "");
    if (lease_id !== leaseOf(stream_id)) return problem(404, "stream-not-found");
    if (verb === "stop") return active.delete(stream_id) ? stopped() : ended("stopped");
    return active.has(stream_id) ? beaten({ stream_id }) : ended("stopped");
  };
  return Object.assign(answer, { active });
};
