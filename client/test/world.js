/**
 * A page without a browser: a clock that a test moves on, a network that answers as the test says,
 * and the events of a window. Client code sees them as the globals that it knows from a browser.
 */
import { setImmediate as breathe } from "node:timers/promises";

import { play } from "../stream-client.js";

const EPOCH = Date.parse("2026-01-01T00:00:00Z");
const EVENTS = ["onStarted", "onBeat", "onResumed", "onRefused", "onEnded", "onUnavailable"];
export const CALLBACKS = [...EVENTS, "onOffline", "onOnline", "onError"];
const REPLACED = ["setTimeout", "clearTimeout", "fetch", "addEventListener", "removeEventListener"];

export class World {
  now = 0; // milliseconds
  requests = []; // { at, path, body, headers, options }
  told = []; // [event, at, ...details]
  thrown = [];
  random = () => 0.5;
  /** Answers a request: { status, type, headers, body }, an Error, or undefined: never. */
  network = () => undefined;
  delay = 0; // milliseconds until an answer
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
      const at = this.now + Math.max(0, Number(delay) || 0);
      this.#timers.set(this.#next, { at, run });
      return this.#next++;
    };
    globalThis.clearTimeout = (id) => this.#timers.delete(id);
    globalThis.addEventListener = (type, run) => this.#listeners.push({ type, run });
    globalThis.removeEventListener = (type, run) => {
      this.#listeners = this.#listeners.filter((one) => one.type !== type || one.run !== run);
    };
    globalThis.document = { addEventListener, removeEventListener };
    globalThis.fetch = (url, options) => this.#fetch(url, options);
    Date.now = () => EPOCH + this.now;
    performance.now = () => this.now;
    Math.random = () => this.random();
  }

  [Symbol.dispose ?? "dispose"]() {
    this.close();
  }

  close() {
    for (const name of REPLACED) globalThis[name] = this.#before[name];
    Date.now = this.#before.now;
    performance.now = this.#before.performance;
    Math.random = this.#before.random;
    delete globalThis.document;
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
    await settle();
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= until);
      if (due.length === 0) break;
      due.sort(([a, one], [b, other]) => one.at - other.at || a - b);
      const [id, { at, run }] = due[0];
      this.#timers.delete(id);
      this.now = Math.max(this.now, at);
      try {
        run();
      } catch (error) {
        this.thrown.push(error);
      }
      await settle();
    }
    this.now = until;
  }

  /** The device sleeps: its clock goes on, its timers do not. */
  sleep(seconds) {
    this.now += seconds * 1000;
    for (const timer of this.#timers.values()) timer.at += seconds * 1000;
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
    return new Promise((resolve, reject) => {
      options.signal?.addEventListener("abort", () => reject(new TypeError("aborted")));
      if (answer === undefined) return;
      const settle = () => (answer instanceof Error ? reject(answer) : resolve(response(answer)));
      if (this.delay) setTimeout(settle, this.delay);
      else settle();
    });
  }
}

/** Promises that can go on do, real ones of the platform's streams included. */
const settle = async () => {
  for (let round = 0; round < 4; round++) await breathe();
};

const response = ({ status = 200, type = "application/json", headers = {}, body }) => {
  const all = new Headers(headers);
  if (type) all.set("Content-Type", type);
  const text = typeof body === "string" || body === undefined ? body : JSON.stringify(body);
  return new Response(status === 204 ? null : text, { status, headers: all });
};

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

export const started = (fields) => ({ status: 201, body: stream({ active: 1, limit: 3, ...fields }) });
export const beaten = (fields) => ({ status: 200, body: stream(fields) });
export const problem = (status, kind, fields = {}) => ({
  status,
  type: PROBLEM,
  body: { type: `urn:stream-service:problem:${kind}`, title: kind, status, detail: kind, ...fields },
});
export const ended = (reason, fields) => problem(410, "stream-ended", { reason, ...fields });
export const forgotten = () => problem(404, "stream-not-found");
export const refused = () => problem(409, "limit-reached", { limit: 1, active: 1, streams: [stream()] });
export const away = (retryAfter) => ({
  ...problem(503, "unavailable"),
  headers: retryAfter === undefined ? {} : { "Retry-After": `${retryAfter}` },
});

/** A service with this many slots, for the tests in which the order of requests matters. */
export const service = (limit = 3) => {
  const active = new Map();
  let count = 0;
  return ({ path, headers }) => {
    if (path.endsWith("/streams")) {
      const key = headers["idempotency-key"];
      for (const [id, one] of active) if (one === key) return { ...started({ stream_id: id }), status: 200 };
      if (active.size >= limit) return refused();
      const id = `${count++}-id`;
      active.set(id, key);
      return started({ stream_id: id });
    }
    const [id, verb] = path.split("/").slice(-2);
    if (verb === "stop") return active.delete(id) ? { status: 204, type: null } : ended("stopped");
    return active.has(id) ? beaten({ stream_id: id }) : ended("stopped");
  };
};
