/**
 * Player client of stream-service: starts a stream, keeps it alive, and says when it is over.
 *
 *   import { play } from "/client.js";
 *   const playing = play({
 *     device: "Living-room TV",
 *     onStarted: (stream) => video.play(),
 *     onRefused: ({ limit, active, streams }) => showTooManyDevices(streams),
 *     onEnded: (reason, problem) => video.pause(), // stopped, expired, replaced or forgotten
 *   });
 *   await playing.stop();
 * Options, all of them optional:
 *   url      where the gateway has the service; "" for the page's own origin
 *   device, content, replace      as in POST /streams
 *   headers  sent with each request, for a page that talks to the service without a gateway
 *   onStarted(stream), onBeat(stream), onRefused(problem), onEnded(reason, problem)
 *   onError(error)      what will be tried again; or, if error.final is true, what will not
 */
const [FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, TIMEOUT_MILLISECONDS] = [1, 15, 10_000];

export const play = (options = {}) => new Playing(options);

class Playing {
  stream = null; // as the service described it last
  over = false;
  #options;
  #key = newKey(); // the same for each try: a start whose answer was lost takes no second slot
  #timer = null;
  #dueAt = 0;
  #wait = FIRST_WAIT_SECONDS;
  #busy = false;
  #told = false;
  #wake = () => Date.now() >= this.#dueAt && this.#go();
  #leave = () => {
    this.#dueAt = 0; // if the page comes back from the cache, it asks at once what has become of it
    this.#tell();
  };

  constructor(options) {
    this.#options = options;
    this.#listen("addEventListener");
    this.#after(0);
  }

  /** Ends the stream. Done when the service has been told, or could not be reached. */
  stop() {
    this.#finish();
    return this.#tell();
  }

  #after(seconds) {
    clearTimeout(this.#timer);
    if (this.over) return;
    this.#dueAt = Date.now() + seconds * 1000;
    this.#timer = setTimeout(() => this.#go(), seconds * 1000);
  }

  async #go() {
    if (this.over || this.#busy) return;
    this.#busy = true;
    try {
      await (this.stream ? this.#beat() : this.#start());
      this.#wait = FIRST_WAIT_SECONDS;
    } catch (error) {
      if (error.final) this.#finish();
      else this.#after(this.#backOff(error.retryAfter));
      this.#options.onError?.(error);
    } finally {
      this.#busy = false;
    }
  }

  async #start() {
    const { device, content, replace } = this.#options;
    const headers = { "Content-Type": "application/json", "Idempotency-Key": this.#key };
    const [status, answer] = await this.#post("/streams", headers, { device, content, replace });
    if (status === 409) {
      this.#finish();
      return this.#options.onRefused?.(answer);
    }
    this.stream = answer;
    if (this.#told) return this.#tell().then(() => this.#after(0)); // left or stopped meanwhile
    this.#after(answer.heartbeat_in);
    this.#options.onStarted?.(answer);
  }

  async #beat() {
    const [status, answer] = await this.#post(`${this.#path}/heartbeat`);
    if (this.over) return;
    if (status === 410 || status === 404) {
      this.#finish();
      return this.#options.onEnded?.(answer.reason ?? "forgotten", answer);
    }
    this.stream = answer;
    this.#after(answer.heartbeat_in);
    this.#options.onBeat?.(answer);
  }

  /** Status and answer, if it is one that the callers know what to do with; throws others. */
  async #post(path, headers, body) {
    const response = await fetch((this.#options.url ?? "") + path, {
      method: "POST",
      headers: { ...this.#options.headers, ...headers },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    });
    const answer = await response.json().catch(() => ({}));
    const { status } = response;
    if (response.ok || [404, 409, 410].includes(status)) return [status, answer];
    const retryAfter = Number(response.headers.get("Retry-After"));
    const final = status < 500 && status !== 408 && status !== 429;
    const error = new Error(answer.detail ?? `HTTP ${status}`);
    throw Object.assign(error, { status, problem: answer, retryAfter, final });
  }

  /** Tells the service that it is over, even while the page goes away. */
  async #tell() {
    this.#told = true;
    if (this.stream === null) return;
    const { url = "", headers } = this.#options;
    const path = `${url}${this.#path}/stop`;
    if (!headers && navigator.sendBeacon(path)) return; // a beacon cannot carry headers
    await fetch(path, { method: "POST", headers, keepalive: true }).catch(() => {});
  }

  #finish() {
    this.over = true;
    clearTimeout(this.#timer);
    this.#listen("removeEventListener");
  }

  /** Timers sleep with the device and are slow in hidden pages: look at the clock on coming back. */
  #listen(how) {
    window[how]("pagehide", this.#leave);
    for (const type of ["pageshow", "online", "focus"]) window[how](type, this.#wake);
    document[how]("visibilitychange", this.#wake);
  }

  /** Doubles with each failure, and is spread so that players do not come back all at once. */
  #backOff(atLeast = 0) {
    const wait = Math.max(atLeast, this.#wait);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_SECONDS);
    return wait * (1 + Math.random() / 2);
  }

  get #path() { return `/streams/${encodeURIComponent(this.stream.stream_id)}`; }
}

const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
