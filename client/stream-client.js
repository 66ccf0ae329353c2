/**
 * Player client of stream-service: starts a stream, keeps it alive, and says when it is over.
 *
 *   import { play } from "/client.js";
 *   const playing = play({
 *     device: "Living-room TV",
 *     onStarted: (stream) => video.play(),
 *     onRefused: ({ limit, active, streams }) => showTooManyDevices(streams),
 *     onEnded: (reason, detail) => video.pause(),
 *   });
 *   await playing.stop();
 *
 * Every option is in stream-client.d.ts, and explained in the package's README. The rules are those
 * of docs/clients.md; the table of cases beside the tests holds them.
 */
const SECOND = 1000;
const ANSWER_SECONDS = 10; // no answer by then is none
const [FIRST_WAIT, LONGEST_WAIT, LONGEST_RETRY_AFTER] = [1, 15, 60]; // seconds, before the spread
const [SHORTEST_BEAT, LONGEST_BEAT] = [1, 3600];
const RESUME_SPREAD = 5;
const [STOP_SECONDS, STOP_FIRST_SECONDS] = [10, 3];
const FREE_REQUESTS = 2; // then one a second; the third free one is kept for a page that goes
const LONGEST_ANSWER = 2 ** 20; // bytes; a refusal with a hundred long names has half of that
const LONGEST_TIMER = 2 ** 31 - 1; // milliseconds; beyond it, timers fire at once
const [LONGEST_LABEL, LONGEST_DEVICE_ID] = [200, 128]; // characters
const [MOST_CHOICES, MOST_ABANDONED] = [8, 4];
const PLATFORM = /^(?=.{1,40}$)[\w.+-]+( [\w.+-]+)?$/; // as the service takes it
const DEVICE_ID = "stream-service.device-id";
const ABANDONED = "stream-service.abandoned";
const PROBLEM = "urn:stream-service:problem:";
const HOPELESS = [400, 413, 415, 422]; // what the service says of a start that will never do

const stopping = new Set(); // stops under way on this page: a start lets them go first
let startFreeAt = 0; // a second after the start of what was stopped last: zapping is no storm

export const play = (options = {}) => new Playing(options);

class Playing {
  state = "starting"; // then "playing"; "resuming" while a lost stream is started anew; "over"
  stream = null; // as the service described it last; null while none is held
  #leaseId = ""; // renews and ends the stream without a login: a secret, which no callback is told
  #options;
  #key = newKey(); // the same for each try: a start whose answer was lost takes no second slot
  #body = null; // of the start, and the same for each try too
  #deviceId;
  #timer = null;
  #dueAt = 0; // when the next request is due, by the clock that goes on while a device sleeps
  #attempt = null; // the request under way
  #failures = 0; // in a row
  #mayHurry = false; // the wait is our own, not one that the service asked for
  #unsure = false; // a start was sent, and nobody said what became of it
  #asks = false; // the attempt has sent its request
  #refused = false; // a start was answered 401 or 403, and there is no stream since
  #silent = false; // the app has been told that nobody answers
  #grace = null;
  #paused = null; // the timer of a pause
  #sent = 0;
  #startedAt = 0; // when a start was sent last
  #freeAt = 0; // when the next request may be sent, by a clock that nobody sets
  #left = { id: null, sent: 0 }; // the stream that a leaving page stopped, and the requests by then
  #stopped = null;

  constructor(options) {
    this.#options = options;
    const { deviceId = deviceIdOfBrowser() } = options;
    this.#deviceId = deviceId || undefined;
    this.#listen("addEventListener");
    this.#after(0); // not at once: a component that is mounted and unmounted again asks nothing
    if (options.signal?.aborted) this.stop();
    else options.signal?.addEventListener("abort", this.#abort);
  }

  /** Ends the stream. True once there is none for sure; false if the lease has to free its slot. */
  stop() {
    return (this.#stopped ??= this.#quit());
  }

  /** Whether the picture stands still: after `pauseSeconds` of that the slot is freed. */
  setPaused(paused) {
    clearTimeout(this.#paused);
    const pause = this.#options.pauseSeconds * SECOND;
    if (paused && this.state !== "over" && pause <= LONGEST_TIMER)
      this.#paused = setTimeout(() => this.#end("onEnded", "paused", {}), pause);
  }

  #quit() {
    this.#finish();
    if (this.#startedAt) startFreeAt = this.#startedAt + SECOND;
    const released = after(this.#release(), () => {
      stopping.delete(released);
      this.#listen("removeEventListener");
    });
    stopping.add(released);
    return released;
  }

  #go() {
    if (this.state === "over" || this.#attempt) return;
    clearTimeout(this.#timer);
    const attempt = this.state === "playing" ? this.#beat() : this.#start();
    this.#attempt = after(attempt.catch((error) => this.#failed(error)), () => {
      this.#attempt = null;
      this.#asks = false;
    });
  }

  #after(seconds) {
    clearTimeout(this.#timer);
    if (this.state === "over") return;
    this.#dueAt = Date.now() + seconds * SECOND;
    this.#timer = setTimeout(() => this.#go(), seconds * SECOND);
  }

  async #start() {
    if (stopping.size) await within(STOP_FIRST_SECONDS, Promise.all(stopping));
    const first = this.state === "starting";
    const body = (this.#body ??= this.#describe(first));
    const reply = await this.#post("/streams", { body });
    const { status, kind, answer } = reply;
    const admitted = isStream(reply) && isId(answer.lease_id);
    const refused = status === 409 && kind === "limit-reached" && Array.isArray(answer.streams);
    if (admitted || refused) this.#unsure = false;
    if (refused) return this.#end("onRefused", answer);
    if (!admitted) throw failure(reply);
    if (first) abandoned.remove(body.replace ?? []);
    this.#leaseId = answer.lease_id;
    this.#hold(answer, first ? "onStarted" : "onResumed");
  }

  #describe(first) {
    const { device, content, platform, replace } = this.#options;
    const body = {
      device: fit(device, LONGEST_LABEL),
      content: fit(content, LONGEST_LABEL),
      platform: PLATFORM.exec(platform ?? "")?.[0],
      device_id: this.#deviceId,
    };
    if (!first) return body; // a stream that resumes takes no other's place
    const own = abandoned.list();
    const choices = own.concat(replace ?? []).slice(0, MOST_CHOICES);
    body.replace = own.length ? choices : replace;
    return body;
  }

  async #beat() {
    const left = this.#left;
    const reply = await this.#post(`${this.#path}/heartbeat`);
    if (this.state === "over") return;
    const { status, kind, answer } = reply;
    const { stream_id } = this.stream;
    if (isStream(reply) && answer.stream_id === stream_id) {
      // Asked after the last word of a page that came back: that word was lost. A later stop is
      // somebody's. If the page went while this was under way, it tells nothing of that word.
      if (this.#left === left) this.#left = { id: null, sent: left.sent };
      const { active, limit, ...kept } = this.stream; // those two were true at the start
      return this.#hold({ ...kept, ...answer }, "onBeat");
    }
    const told = status === 410 && kind === "stream-ended" && answer.reason;
    const ended = told && typeof told === "string" ? told : null;
    // By the last word of a page that came back, or by the next page, which took this one's place.
    const own = ["stopped", "replaced"].includes(ended) && this.#left.id === stream_id;
    const lost = ended === "expired" || own;
    if (lost || (status === 404 && kind === "stream-not-found")) return this.#resume();
    if (ended === null) throw failure(reply);
    this.stream = null;
    this.#end("onEnded", ended, answer);
  }

  #hold({ lease_id, ...stream }, event) {
    this.stream = stream;
    if (this.state === "over") return; // stopped meanwhile: what waits for this ends it
    this.state = "playing";
    this.#after(clamp(stream.heartbeat_in, SHORTEST_BEAT, LONGEST_BEAT));
    const wasOffline = this.#silent && event !== "onStarted";
    clearTimeout(this.#grace);
    this.#failures = 0;
    this.#mayHurry = this.#refused = this.#silent = false;
    if (wasOffline) this.#tell("onOnline", stream);
    this.#tell(event, stream);
  }

  /** The stream is lost and nobody meant it: start anew, not all players in one moment. */
  #resume() {
    this.state = "resuming";
    this.#key = newKey();
    this.#body = null;
    this.#mayHurry = false; // the spread is the service's
    this.#after(Math.random() * clamp(this.stream.heartbeat_in, 0, RESUME_SPREAD));
    this.stream = null;
  }

  #failed(error) {
    const first = this.state === "starting";
    // Only a start needs a login.
    const unwelcome = this.state !== "playing" && [401, 403].includes(error.status);
    if (unwelcome && !this.#refused && typeof this.#options.headers === "function") {
      this.#refused = true;
      return this.#after(0);
    }
    this.#mayHurry = !error.retryAfter;
    this.#after(this.#backOff(error.retryAfter));
    this.#tell("onError", error);
    if (first && (unwelcome || (error.problem && HOPELESS.includes(error.status))))
      return this.#end("onEnded", "rejected", error);
    if (this.#silent || this.state === "over") return;
    this.#silent = true;
    const grace = this.#options.graceSeconds * SECOND;
    if (grace <= LONGEST_TIMER)
      this.#grace = setTimeout(() => this.#end("onEnded", "unreachable", error), grace);
    this.#tell(first ? "onUnavailable" : "onOffline", error);
  }

  #end(event, ...details) {
    if (this.state === "over") return;
    this.stop(); // frees the slot, if one is still held
    this.#call(event, ...details);
  }

  #finish() {
    this.state = "over";
    clearTimeout(this.#timer);
    clearTimeout(this.#grace);
    clearTimeout(this.#paused);
    this.#options.signal?.removeEventListener("abort", this.#abort);
  }

  /**
   * Has the service end what is held. A start under way may still bring a stream: waits for it. All
   * that takes one deadline, but for one last try of a second.
   */
  async #release() {
    const until = performance.now() + STOP_SECONDS * SECOND;
    if (this.stream === null && this.#asks) await within(STOP_SECONDS, this.#attempt);
    const { stream_id } = this.stream ?? {};
    if (stream_id) abandoned.add(stream_id);
    for (let wait = FIRST_WAIT; this.stream !== null; wait *= 2) {
      const seconds = Math.max(1, (until - performance.now()) / SECOND);
      const asked = this.#post(`${this.#path}/stop`, { last: true, seconds });
      const { status, kind } = await asked.catch(() => ({}));
      const gone = kind === "stream-ended" || kind === "stream-not-found";
      if (status === 204 || gone) this.stream = null;
      else if (performance.now() + wait * SECOND >= until) return false;
      else await sleep(wait);
    }
    if (stream_id) abandoned.remove([stream_id]);
    return !this.#unsure;
  }

  /** The last word of a page that goes: it waits for nothing, and nobody sees its answer. */
  #leave = () => {
    if (this.stream === null) return;
    const { stream_id } = this.stream;
    abandoned.add(stream_id); // for the next page, whose start may overtake this word
    if (this.#left.sent === this.#sent) return;
    this.#count();
    this.#left = { id: stream_id, sent: this.#sent };
    this.#dueAt = 0; // if the page comes back from the cache, it asks at once what has become of it
    const { credentials } = this.#options;
    const url = `${this.#url}${this.#path}/stop`;
    // A beacon always carries cookies.
    if (credentials !== "omit" && globalThis.navigator?.sendBeacon?.(url)) return;
    fetch(url, { method: "POST", credentials, keepalive: true }).catch(() => {});
  };

  /** Timers sleep with the device and are slow in hidden pages: look at the clock on coming back. */
  #wake = ({ type }) => {
    const plays = this.state !== "over" && this.stream !== null;
    if (type === "pageshow" && plays) abandoned.remove([this.stream.stream_id]);
    const hurries = type === "online" && this.#mayHurry;
    if (hurries) this.#failures = 0;
    if (hurries || Date.now() >= this.#dueAt) this.#go();
  };

  #abort = () => this.stop();

  #listen(how) {
    globalThis[how]?.("pagehide", this.#leave);
    for (const type of ["pageshow", "online", "focus"]) globalThis[how]?.(type, this.#wake);
    for (const type of ["visibilitychange", "resume"]) globalThis.document?.[how](type, this.#wake);
  }

  /** What was answered, within these seconds; throws an error of its own where nothing was. */
  async #post(path, { seconds = ANSWER_SECONDS, ...request } = {}) {
    const before = this.#sent;
    // Engines before 2018 have none: there the answer is ignored when it comes late.
    const abort = typeof AbortController === "function" ? new AbortController() : null;
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`No answer within ${seconds} s`)), seconds * SECOND);
    });
    try {
      return await Promise.race([this.#exchange(path, request, abort?.signal), late]);
    } catch (cause) {
      if (this.#sent === before) this.#count(); // a try that sent nothing takes its turn too
      throw unanswered(cause, this.#leaseId);
    } finally {
      clearTimeout(timer);
      abort?.abort(); // the rest is not read
    }
  }

  async #exchange(path, { body, last = false }, signal) {
    const { credentials } = this.#options;
    await this.#turn();
    const headers = body && (await this.#headersOfStart()); // the lease id opens the rest
    await this.#turn(body); // a page that went may have sent its last word meanwhile
    if (this.state === "over" && !last) throw new Error("No longer wanted");
    if (body) {
      this.#unsure = true;
      this.#startedAt = performance.now();
    }
    this.#count();
    this.#asks = true;
    const response = await fetch(this.#url + path, {
      method: "POST",
      headers,
      body: body && JSON.stringify(body),
      credentials,
      redirect: "error", // a login page is no answer
      keepalive: last,
      signal,
    });
    const { status } = response;
    const [type] = (response.headers.get("Content-Type") ?? "").toLowerCase().split(/[ ;]/);
    const isProblem = type === "application/problem+json";
    const isJson = isProblem || type === "application/json";
    const answer = isJson ? await read(response).then(JSON.parse).catch(() => null) : null;
    const isOurs = isProblem && answer?.status === status && `${answer.type}`.startsWith(PROBLEM);
    const kind = isOurs ? answer.type.slice(PROBLEM.length) : null;
    const retryAfter = seconds(response.headers.get("Retry-After"), response.headers.get("Date"));
    return { status, kind, answer, retryAfter };
  }

  async #headersOfStart() {
    const { headers } = this.#options;
    const own = typeof headers === "function" ? await headers({ refused: this.#refused }) : headers;
    const all = new Headers(own);
    all.set("Content-Type", "application/json");
    all.set("Idempotency-Key", this.#key);
    return all;
  }

  #count() {
    this.#sent += 1;
    const now = performance.now();
    this.#freeAt = (this.#sent > FREE_REQUESTS ? Math.max(now, this.#freeAt) : now) + SECOND;
  }

  /** Seconds until the next request may be sent: whatever happens, no storm. */
  #wait(starts) {
    const zapped = starts && !this.#sent ? startFreeAt : 0;
    const at = Math.max(this.#sent < FREE_REQUESTS ? 0 : this.#freeAt, zapped);
    return Math.max(at - performance.now(), 0) / SECOND;
  }

  async #turn(starts = false) {
    while (this.#wait(starts) > 0) await sleep(this.#wait(starts));
  }

  /** Doubles with each failure, and is spread so that players do not come back all at once. */
  #backOff(atLeast = 0) {
    const wait = Math.min(FIRST_WAIT * 2 ** this.#failures, LONGEST_WAIT);
    this.#failures += 1;
    return Math.max(wait, atLeast) * (1 + Math.random());
  }

  #tell(event, ...details) {
    if (this.state !== "over") this.#call(event, ...details);
  }

  /** An app's mistake is the app's: it is reported as uncaught, and changes nothing here. */
  #call(event, ...details) {
    try {
      this.#options[event]?.(...details);
    } catch (error) {
      setTimeout(() => { throw error; });
    }
  }

  get #url() { return (this.#options.url ?? "").replace(/\/+$/, ""); }

  get #path() { return `/streams/${this.#leaseId}`; }
}

/** What goes into paths: an id with dots or slashes would lead elsewhere. */
const isId = (id) => typeof id === "string" && /^[A-Za-z0-9_-]{1,128}$/.test(id);

const isStream = ({ status, answer }) =>
  (status === 200 || status === 201) && isId(answer?.stream_id) &&
  Number.isFinite(answer.heartbeat_in) && answer.heartbeat_in > 0;

const failure = ({ status, kind, answer, retryAfter }) =>
  Object.assign(new Error(kind ? answer.detail : `HTTP ${status}`), {
    status,
    retryAfter,
    problem: kind ? answer : undefined,
  });

/** The text of an answer; throws where it is too long to be the service's. */
const read = async (response) => {
  if (!response.body?.getReader) return response.text(); // React Native has no streams
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (let size = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.length;
    if (size > LONGEST_ANSWER) throw new Error("The answer is too long");
    text += decoder.decode(value, { stream: true });
  }
};

/**
 * What an app's `headers` or a network throws can be anything: nothing that it says is believed. Some
 * networks tell the address: what has the secret in it goes no further.
 */
const unanswered = (cause, secret) => {
  const text = typeof cause?.message === "string" ? cause.message : "No answer";
  return secret && text.includes(secret) ? new Error("No answer") : new Error(text, { cause });
};

/**
 * Seconds, from seconds or a date; 0 where there is nothing to be understood. A date is told by the
 * clock that dated the answer: that of a device may be years off.
 */
const seconds = (text, sentAt) => {
  const wait = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.parse(sentAt)) / SECOND;
  return clamp(wait || 0, 0, LONGEST_RETRY_AFTER);
};

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * SECOND));

/** Waits for the promise, these seconds at most. */
const within = (seconds, promise) => {
  let timer;
  const late = new Promise((done) => (timer = setTimeout(done, seconds * SECOND)));
  return after(Promise.race([promise, late]), () => clearTimeout(timer));
};

/** As `promise.finally`, which engines before 2018 lack. */
const after = (promise, act) =>
  promise.then(
    (value) => (act(), value),
    (error) => {
      act();
      throw error;
    },
  );

/** Text as the service takes it: so many characters at most, and no half of one. */
const fit = (text, most) =>
  typeof text === "string"
    ? Array.from(text, (one) => (/^[\ud800-\udfff]$/.test(one) ? "\ufffd" : one)).slice(0, most).join("")
    : text;

/**
 * Streams of this tab that nobody plays any more, and that may still be active: the newest first. A
 * tab that is duplicated inherits the list. So what plays is never in it, and no twin takes its place.
 */
const abandoned = {
  list() {
    try {
      const isOurs = (id) => typeof id === "string" && /^\d{1,3}-[A-Za-z0-9_-]{22}$/.test(id);
      return JSON.parse(sessionStorage.getItem(ABANDONED)).filter(isOurs);
    } catch {
      return []; // there is none, or it is somebody else's
    }
  },
  keep(ids) {
    try {
      sessionStorage.setItem(ABANDONED, JSON.stringify(ids.slice(0, MOST_ABANDONED)));
    } catch {} // the browser keeps nothing
  },
  add(id) { this.keep([id, ...this.list().filter((one) => one !== id)]); },
  remove(ids) { this.keep(this.list().filter((one) => !ids.includes(one))); },
};

/** Kept where the browser lets it be kept, else for as long as the page lives. */
const deviceIdOfBrowser = () => {
  try {
    pageId = fit(localStorage.getItem(DEVICE_ID), LONGEST_DEVICE_ID) || (pageId ??= newKey());
    localStorage.setItem(DEVICE_ID, pageId);
  } catch {
    pageId ??= newKey();
  }
  return pageId;
};
let pageId;

const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
