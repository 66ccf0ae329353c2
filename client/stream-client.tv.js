var StreamService = (() => {
  var __defProp = Object.defineProperty;
  var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
  var __getOwnPropNames = Object.getOwnPropertyNames;
  var __getOwnPropSymbols = Object.getOwnPropertySymbols;
  var __hasOwnProp = Object.prototype.hasOwnProperty;
  var __propIsEnum = Object.prototype.propertyIsEnumerable;
  var __typeError = (msg) => {
    throw TypeError(msg);
  };
  var __pow = Math.pow;
  var __defNormalProp = (obj, key, value) => key in obj ? __defProp(obj, key, { enumerable: true, configurable: true, writable: true, value }) : obj[key] = value;
  var __spreadValues = (a, b) => {
    for (var prop in b || (b = {}))
      if (__hasOwnProp.call(b, prop))
        __defNormalProp(a, prop, b[prop]);
    if (__getOwnPropSymbols)
      for (var prop of __getOwnPropSymbols(b)) {
        if (__propIsEnum.call(b, prop))
          __defNormalProp(a, prop, b[prop]);
      }
    return a;
  };
  var __objRest = (source, exclude) => {
    var target = {};
    for (var prop in source)
      if (__hasOwnProp.call(source, prop) && exclude.indexOf(prop) < 0)
        target[prop] = source[prop];
    if (source != null && __getOwnPropSymbols)
      for (var prop of __getOwnPropSymbols(source)) {
        if (exclude.indexOf(prop) < 0 && __propIsEnum.call(source, prop))
          target[prop] = source[prop];
      }
    return target;
  };
  var __export = (target, all) => {
    for (var name in all)
      __defProp(target, name, { get: all[name], enumerable: true });
  };
  var __copyProps = (to, from, except, desc) => {
    if (from && typeof from === "object" || typeof from === "function") {
      for (let key of __getOwnPropNames(from))
        if (!__hasOwnProp.call(to, key) && key !== except)
          __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
    }
    return to;
  };
  var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);
  var __publicField = (obj, key, value) => __defNormalProp(obj, typeof key !== "symbol" ? key + "" : key, value);
  var __accessCheck = (obj, member, msg) => member.has(obj) || __typeError("Cannot " + msg);
  var __privateGet = (obj, member, getter) => (__accessCheck(obj, member, "read from private field"), getter ? getter.call(obj) : member.get(obj));
  var __privateAdd = (obj, member, value) => member.has(obj) ? __typeError("Cannot add the same private member more than once") : member instanceof WeakSet ? member.add(obj) : member.set(obj, value);
  var __privateSet = (obj, member, value, setter) => (__accessCheck(obj, member, "write to private field"), setter ? setter.call(obj, value) : member.set(obj, value), value);
  var __privateMethod = (obj, member, method) => (__accessCheck(obj, member, "access private method"), method);
  var __async = (__this, __arguments, generator) => {
    return new Promise((resolve, reject) => {
      var fulfilled = (value) => {
        try {
          step(generator.next(value));
        } catch (e) {
          reject(e);
        }
      };
      var rejected = (value) => {
        try {
          step(generator.throw(value));
        } catch (e) {
          reject(e);
        }
      };
      var step = (x) => x.done ? resolve(x.value) : Promise.resolve(x.value).then(fulfilled, rejected);
      step((generator = generator.apply(__this, __arguments)).next());
    });
  };

  // stream-client.js
  var stream_client_exports = {};
  __export(stream_client_exports, {
    play: () => play
  });
  var SECOND = 1e3;
  var ANSWER_SECONDS = 10;
  var [FIRST_WAIT, LONGEST_WAIT, LONGEST_RETRY_AFTER] = [1, 15, 60];
  var [SHORTEST_BEAT, LONGEST_BEAT] = [1, 3600];
  var RESUME_SPREAD = 5;
  var [STOP_SECONDS, STOP_FIRST_SECONDS] = [10, 3];
  var FREE_REQUESTS = 2;
  var LONGEST_ANSWER = __pow(2, 20);
  var LONGEST_TIMER = __pow(2, 31) - 1;
  var [LONGEST_LABEL, LONGEST_DEVICE_ID] = [200, 128];
  var [MOST_CHOICES, MOST_ABANDONED] = [8, 4];
  var PLATFORM = /^(?=.{1,40}$)[\w.+-]+( [\w.+-]+)?$/;
  var DEVICE_ID = "stream-service.device-id";
  var ABANDONED = "stream-service.abandoned";
  var PROBLEM = "urn:stream-service:problem:";
  var HOPELESS = [400, 413, 415, 422];
  var stopping = /* @__PURE__ */ new Set();
  var startFreeAt = 0;
  var play = (options = {}) => new Playing(options);
  var _leaseId, _options, _key, _body, _deviceId, _timer, _dueAt, _attempt, _failures, _mayHurry, _unsure, _asks, _refused, _silent, _grace, _paused, _sent, _startedAt, _freeAt, _left, _stopped, _Playing_instances, quit_fn, go_fn, after_fn, start_fn, describe_fn, beat_fn, hold_fn, resume_fn, failed_fn, end_fn, finish_fn, release_fn, _leave, _wake, _abort, listen_fn, post_fn, exchange_fn, headersOfStart_fn, count_fn, wait_fn, turn_fn, backOff_fn, tell_fn, call_fn, url_get, path_get;
  var Playing = class {
    constructor(options) {
      __privateAdd(this, _Playing_instances);
      __publicField(this, "state", "starting");
      // then "playing"; "resuming" while a lost stream is started anew; "over"
      __publicField(this, "stream", null);
      // as the service described it last; null while none is held
      __privateAdd(this, _leaseId, "");
      // renews and ends the stream without a login: a secret, which no callback is told
      __privateAdd(this, _options);
      __privateAdd(this, _key, newKey());
      // the same for each try: a start whose answer was lost takes no second slot
      __privateAdd(this, _body, null);
      // of the start, and the same for each try too
      __privateAdd(this, _deviceId);
      __privateAdd(this, _timer, null);
      __privateAdd(this, _dueAt, 0);
      // when the next request is due, by the clock that goes on while a device sleeps
      __privateAdd(this, _attempt, null);
      // the request under way
      __privateAdd(this, _failures, 0);
      // in a row
      __privateAdd(this, _mayHurry, false);
      // the wait is our own, not one that the service asked for
      __privateAdd(this, _unsure, false);
      // a start was sent, and nobody said what became of it
      __privateAdd(this, _asks, false);
      // the attempt has sent its request
      __privateAdd(this, _refused, false);
      // a start was answered 401 or 403, and there is no stream since
      __privateAdd(this, _silent, false);
      // the app has been told that nobody answers
      __privateAdd(this, _grace, null);
      __privateAdd(this, _paused, null);
      // the timer of a pause
      __privateAdd(this, _sent, 0);
      __privateAdd(this, _startedAt, 0);
      // when a start was sent last
      __privateAdd(this, _freeAt, 0);
      // when the next request may be sent, by a clock that nobody sets
      __privateAdd(this, _left, { id: null, sent: 0 });
      // the stream that a leaving page stopped, and the requests by then
      __privateAdd(this, _stopped, null);
      /** The last word of a page that goes: it waits for nothing, and nobody sees its answer. */
      __privateAdd(this, _leave, () => {
        var _a, _b;
        if (this.stream === null) return;
        const { stream_id } = this.stream;
        abandoned.add(stream_id);
        if (__privateGet(this, _left).sent === __privateGet(this, _sent)) return;
        __privateMethod(this, _Playing_instances, count_fn).call(this);
        __privateSet(this, _left, { id: stream_id, sent: __privateGet(this, _sent) });
        __privateSet(this, _dueAt, 0);
        const { credentials } = __privateGet(this, _options);
        const url = `${__privateGet(this, _Playing_instances, url_get)}${__privateGet(this, _Playing_instances, path_get)}/stop`;
        if (credentials !== "omit" && ((_b = (_a = self.navigator) == null ? void 0 : _a.sendBeacon) == null ? void 0 : _b.call(_a, url))) return;
        fetch(url, { method: "POST", credentials, keepalive: true }).catch(() => {
        });
      });
      /** Timers sleep with the device and are slow in hidden pages: look at the clock on coming back. */
      __privateAdd(this, _wake, ({ type }) => {
        const plays = this.state !== "over" && this.stream !== null;
        if (type === "pageshow" && plays) abandoned.remove([this.stream.stream_id]);
        const hurries = type === "online" && __privateGet(this, _mayHurry);
        if (hurries) __privateSet(this, _failures, 0);
        if (hurries || Date.now() >= __privateGet(this, _dueAt)) __privateMethod(this, _Playing_instances, go_fn).call(this);
      });
      __privateAdd(this, _abort, () => this.stop());
      var _a, _b;
      __privateSet(this, _options, options);
      const { deviceId = deviceIdOfBrowser() } = options;
      __privateSet(this, _deviceId, deviceId || void 0);
      __privateMethod(this, _Playing_instances, listen_fn).call(this, "addEventListener");
      __privateMethod(this, _Playing_instances, after_fn).call(this, 0);
      if ((_a = options.signal) == null ? void 0 : _a.aborted) this.stop();
      else (_b = options.signal) == null ? void 0 : _b.addEventListener("abort", __privateGet(this, _abort));
    }
    /** Ends the stream. True once there is none for sure; false if the lease has to free its slot. */
    stop() {
      var _a;
      return (_a = __privateGet(this, _stopped)) != null ? _a : __privateSet(this, _stopped, __privateMethod(this, _Playing_instances, quit_fn).call(this));
    }
    /** Whether the picture stands still: after `pauseSeconds` of that the slot is freed. */
    setPaused(paused) {
      clearTimeout(__privateGet(this, _paused));
      const pause = __privateGet(this, _options).pauseSeconds * SECOND;
      if (paused && this.state !== "over" && pause <= LONGEST_TIMER)
        __privateSet(this, _paused, setTimeout(() => __privateMethod(this, _Playing_instances, end_fn).call(this, "onEnded", "paused", {}), pause));
    }
  };
  _leaseId = new WeakMap();
  _options = new WeakMap();
  _key = new WeakMap();
  _body = new WeakMap();
  _deviceId = new WeakMap();
  _timer = new WeakMap();
  _dueAt = new WeakMap();
  _attempt = new WeakMap();
  _failures = new WeakMap();
  _mayHurry = new WeakMap();
  _unsure = new WeakMap();
  _asks = new WeakMap();
  _refused = new WeakMap();
  _silent = new WeakMap();
  _grace = new WeakMap();
  _paused = new WeakMap();
  _sent = new WeakMap();
  _startedAt = new WeakMap();
  _freeAt = new WeakMap();
  _left = new WeakMap();
  _stopped = new WeakMap();
  _Playing_instances = new WeakSet();
  quit_fn = function() {
    __privateMethod(this, _Playing_instances, finish_fn).call(this);
    if (__privateGet(this, _startedAt)) startFreeAt = __privateGet(this, _startedAt) + SECOND;
    const released = after(__privateMethod(this, _Playing_instances, release_fn).call(this), () => {
      stopping.delete(released);
      __privateMethod(this, _Playing_instances, listen_fn).call(this, "removeEventListener");
    });
    stopping.add(released);
    return released;
  };
  go_fn = function() {
    if (this.state === "over" || __privateGet(this, _attempt)) return;
    clearTimeout(__privateGet(this, _timer));
    const attempt = this.state === "playing" ? __privateMethod(this, _Playing_instances, beat_fn).call(this) : __privateMethod(this, _Playing_instances, start_fn).call(this);
    __privateSet(this, _attempt, after(attempt.catch((error) => __privateMethod(this, _Playing_instances, failed_fn).call(this, error)), () => {
      __privateSet(this, _attempt, null);
      __privateSet(this, _asks, false);
    }));
  };
  after_fn = function(seconds2) {
    clearTimeout(__privateGet(this, _timer));
    if (this.state === "over") return;
    __privateSet(this, _dueAt, Date.now() + seconds2 * SECOND);
    __privateSet(this, _timer, setTimeout(() => __privateMethod(this, _Playing_instances, go_fn).call(this), seconds2 * SECOND));
  };
  start_fn = function() {
    return __async(this, null, function* () {
      var _a, _b;
      if (stopping.size) yield within(STOP_FIRST_SECONDS, Promise.all(stopping));
      const first = this.state === "starting";
      const body = (_a = __privateGet(this, _body)) != null ? _a : __privateSet(this, _body, __privateMethod(this, _Playing_instances, describe_fn).call(this, first));
      const reply = yield __privateMethod(this, _Playing_instances, post_fn).call(this, "/streams", { body });
      const { status, kind, answer } = reply;
      const admitted = isStream(reply) && isId(answer.lease_id);
      const refused = status === 409 && kind === "limit-reached" && Array.isArray(answer.streams);
      if (admitted || refused) __privateSet(this, _unsure, false);
      if (refused) return __privateMethod(this, _Playing_instances, end_fn).call(this, "onRefused", answer);
      if (!admitted) throw failure(reply);
      if (first) abandoned.remove((_b = body.replace) != null ? _b : []);
      __privateSet(this, _leaseId, answer.lease_id);
      __privateMethod(this, _Playing_instances, hold_fn).call(this, answer, first ? "onStarted" : "onResumed");
    });
  };
  describe_fn = function(first) {
    var _a;
    const { device, content, platform, replace } = __privateGet(this, _options);
    const body = {
      device: fit(device, LONGEST_LABEL),
      content: fit(content, LONGEST_LABEL),
      platform: (_a = PLATFORM.exec(platform != null ? platform : "")) == null ? void 0 : _a[0],
      device_id: __privateGet(this, _deviceId)
    };
    if (!first) return body;
    const own = abandoned.list();
    const choices = own.concat(replace != null ? replace : []).slice(0, MOST_CHOICES);
    body.replace = own.length ? choices : replace;
    return body;
  };
  beat_fn = function() {
    return __async(this, null, function* () {
      const left = __privateGet(this, _left);
      const reply = yield __privateMethod(this, _Playing_instances, post_fn).call(this, `${__privateGet(this, _Playing_instances, path_get)}/heartbeat`);
      if (this.state === "over") return;
      const { status, kind, answer } = reply;
      const { stream_id } = this.stream;
      if (isStream(reply) && answer.stream_id === stream_id) {
        if (__privateGet(this, _left) === left) __privateSet(this, _left, { id: null, sent: left.sent });
        const _a = this.stream, { active, limit } = _a, kept = __objRest(_a, ["active", "limit"]);
        return __privateMethod(this, _Playing_instances, hold_fn).call(this, __spreadValues(__spreadValues({}, kept), answer), "onBeat");
      }
      const told = status === 410 && kind === "stream-ended" && answer.reason;
      const ended = told && typeof told === "string" ? told : null;
      const own = ["stopped", "replaced"].includes(ended) && __privateGet(this, _left).id === stream_id;
      const lost = ended === "expired" || own;
      if (lost || status === 404 && kind === "stream-not-found") return __privateMethod(this, _Playing_instances, resume_fn).call(this);
      if (ended === null) throw failure(reply);
      this.stream = null;
      __privateMethod(this, _Playing_instances, end_fn).call(this, "onEnded", ended, answer);
    });
  };
  hold_fn = function(_a, event) {
    var _b = _a, { lease_id } = _b, stream = __objRest(_b, ["lease_id"]);
    this.stream = stream;
    if (this.state === "over") return;
    this.state = "playing";
    __privateMethod(this, _Playing_instances, after_fn).call(this, clamp(stream.heartbeat_in, SHORTEST_BEAT, LONGEST_BEAT));
    const wasOffline = __privateGet(this, _silent) && event !== "onStarted";
    clearTimeout(__privateGet(this, _grace));
    __privateSet(this, _failures, 0);
    __privateSet(this, _mayHurry, __privateSet(this, _refused, __privateSet(this, _silent, false)));
    if (wasOffline) __privateMethod(this, _Playing_instances, tell_fn).call(this, "onOnline", stream);
    __privateMethod(this, _Playing_instances, tell_fn).call(this, event, stream);
  };
  /** The stream is lost and nobody meant it: start anew, not all players in one moment. */
  resume_fn = function() {
    this.state = "resuming";
    __privateSet(this, _key, newKey());
    __privateSet(this, _body, null);
    __privateSet(this, _mayHurry, false);
    __privateMethod(this, _Playing_instances, after_fn).call(this, Math.random() * clamp(this.stream.heartbeat_in, 0, RESUME_SPREAD));
    this.stream = null;
  };
  failed_fn = function(error) {
    const first = this.state === "starting";
    const unwelcome = this.state !== "playing" && [401, 403].includes(error.status);
    if (unwelcome && !__privateGet(this, _refused) && typeof __privateGet(this, _options).headers === "function") {
      __privateSet(this, _refused, true);
      return __privateMethod(this, _Playing_instances, after_fn).call(this, 0);
    }
    __privateSet(this, _mayHurry, !error.retryAfter);
    __privateMethod(this, _Playing_instances, after_fn).call(this, __privateMethod(this, _Playing_instances, backOff_fn).call(this, error.retryAfter));
    __privateMethod(this, _Playing_instances, tell_fn).call(this, "onError", error);
    if (first && (unwelcome || error.problem && HOPELESS.includes(error.status)))
      return __privateMethod(this, _Playing_instances, end_fn).call(this, "onEnded", "rejected", error);
    if (__privateGet(this, _silent) || this.state === "over") return;
    __privateSet(this, _silent, true);
    const grace = __privateGet(this, _options).graceSeconds * SECOND;
    if (grace <= LONGEST_TIMER)
      __privateSet(this, _grace, setTimeout(() => __privateMethod(this, _Playing_instances, end_fn).call(this, "onEnded", "unreachable", error), grace));
    __privateMethod(this, _Playing_instances, tell_fn).call(this, first ? "onUnavailable" : "onOffline", error);
  };
  end_fn = function(event, ...details) {
    if (this.state === "over") return;
    this.stop();
    __privateMethod(this, _Playing_instances, call_fn).call(this, event, ...details);
  };
  finish_fn = function() {
    var _a;
    this.state = "over";
    clearTimeout(__privateGet(this, _timer));
    clearTimeout(__privateGet(this, _grace));
    clearTimeout(__privateGet(this, _paused));
    (_a = __privateGet(this, _options).signal) == null ? void 0 : _a.removeEventListener("abort", __privateGet(this, _abort));
  };
  release_fn = function() {
    return __async(this, null, function* () {
      var _a;
      const until = performance.now() + STOP_SECONDS * SECOND;
      if (this.stream === null && __privateGet(this, _asks)) yield within(STOP_SECONDS, __privateGet(this, _attempt));
      const { stream_id } = (_a = this.stream) != null ? _a : {};
      if (stream_id) abandoned.add(stream_id);
      for (let wait = FIRST_WAIT; this.stream !== null; wait *= 2) {
        const seconds2 = Math.max(1, (until - performance.now()) / SECOND);
        const asked = __privateMethod(this, _Playing_instances, post_fn).call(this, `${__privateGet(this, _Playing_instances, path_get)}/stop`, { last: true, seconds: seconds2 });
        const { status, kind } = yield asked.catch(() => ({}));
        const gone = kind === "stream-ended" || kind === "stream-not-found";
        if (status === 204 || gone) this.stream = null;
        else if (performance.now() + wait * SECOND >= until) return false;
        else yield sleep(wait);
      }
      if (stream_id) abandoned.remove([stream_id]);
      return !__privateGet(this, _unsure);
    });
  };
  _leave = new WeakMap();
  _wake = new WeakMap();
  _abort = new WeakMap();
  listen_fn = function(how) {
    var _a, _b, _c;
    (_a = self[how]) == null ? void 0 : _a.call(self, "pagehide", __privateGet(this, _leave));
    for (const type of ["pageshow", "online", "focus"]) (_b = self[how]) == null ? void 0 : _b.call(self, type, __privateGet(this, _wake));
    for (const type of ["visibilitychange", "resume"]) (_c = self.document) == null ? void 0 : _c[how](type, __privateGet(this, _wake));
  };
  post_fn = function(_0) {
    return __async(this, arguments, function* (path, _c = {}) {
      var _d = _c, { seconds: seconds2 = ANSWER_SECONDS } = _d, request = __objRest(_d, ["seconds"]);
      const before = __privateGet(this, _sent);
      const abort = typeof AbortController === "function" ? new AbortController() : null;
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`No answer within ${seconds2} s`)), seconds2 * SECOND);
      });
      try {
        return yield Promise.race([__privateMethod(this, _Playing_instances, exchange_fn).call(this, path, request, abort == null ? void 0 : abort.signal), late]);
      } catch (cause) {
        if (__privateGet(this, _sent) === before) __privateMethod(this, _Playing_instances, count_fn).call(this);
        throw unanswered(cause, __privateGet(this, _leaseId));
      } finally {
        clearTimeout(timer);
        abort == null ? void 0 : abort.abort();
      }
    });
  };
  exchange_fn = function(_0, _1, _2) {
    return __async(this, arguments, function* (path, { body, last = false }, signal) {
      var _a;
      const { credentials } = __privateGet(this, _options);
      yield __privateMethod(this, _Playing_instances, turn_fn).call(this);
      const headers = body && (yield __privateMethod(this, _Playing_instances, headersOfStart_fn).call(this));
      yield __privateMethod(this, _Playing_instances, turn_fn).call(this, body);
      if (this.state === "over" && !last) throw new Error("No longer wanted");
      if (body) {
        __privateSet(this, _unsure, true);
        __privateSet(this, _startedAt, performance.now());
      }
      __privateMethod(this, _Playing_instances, count_fn).call(this);
      __privateSet(this, _asks, true);
      const response = yield fetch(__privateGet(this, _Playing_instances, url_get) + path, {
        method: "POST",
        headers,
        body: body && JSON.stringify(body),
        credentials,
        redirect: "error",
        // a login page is no answer
        keepalive: last,
        signal
      });
      const { status } = response;
      const [type] = ((_a = response.headers.get("Content-Type")) != null ? _a : "").toLowerCase().split(/[ ;]/);
      const isProblem = type === "application/problem+json";
      const isJson = isProblem || type === "application/json";
      const answer = isJson ? yield read(response).then(JSON.parse).catch(() => null) : null;
      const isOurs = isProblem && (answer == null ? void 0 : answer.status) === status && `${answer.type}`.startsWith(PROBLEM);
      const kind = isOurs ? answer.type.slice(PROBLEM.length) : null;
      const retryAfter = seconds(response.headers.get("Retry-After"), response.headers.get("Date"));
      return { status, kind, answer, retryAfter };
    });
  };
  headersOfStart_fn = function() {
    return __async(this, null, function* () {
      const { headers } = __privateGet(this, _options);
      const own = typeof headers === "function" ? yield headers({ refused: __privateGet(this, _refused) }) : headers;
      const all = new Headers(own);
      all.set("Content-Type", "application/json");
      all.set("Idempotency-Key", __privateGet(this, _key));
      return all;
    });
  };
  count_fn = function() {
    __privateSet(this, _sent, __privateGet(this, _sent) + 1);
    const now = performance.now();
    __privateSet(this, _freeAt, (__privateGet(this, _sent) > FREE_REQUESTS ? Math.max(now, __privateGet(this, _freeAt)) : now) + SECOND);
  };
  /** Seconds until the next request may be sent: whatever happens, no storm. */
  wait_fn = function(starts) {
    const zapped = starts && !__privateGet(this, _sent) ? startFreeAt : 0;
    const at = Math.max(__privateGet(this, _sent) < FREE_REQUESTS ? 0 : __privateGet(this, _freeAt), zapped);
    return Math.max(at - performance.now(), 0) / SECOND;
  };
  turn_fn = function(starts = false) {
    return __async(this, null, function* () {
      while (__privateMethod(this, _Playing_instances, wait_fn).call(this, starts) > 0) yield sleep(__privateMethod(this, _Playing_instances, wait_fn).call(this, starts));
    });
  };
  /** Doubles with each failure, and is spread so that players do not come back all at once. */
  backOff_fn = function(atLeast = 0) {
    const wait = Math.min(FIRST_WAIT * __pow(2, __privateGet(this, _failures)), LONGEST_WAIT);
    __privateSet(this, _failures, __privateGet(this, _failures) + 1);
    return Math.max(wait, atLeast) * (1 + Math.random());
  };
  tell_fn = function(event, ...details) {
    if (this.state !== "over") __privateMethod(this, _Playing_instances, call_fn).call(this, event, ...details);
  };
  /** An app's mistake is the app's: it is reported as uncaught, and changes nothing here. */
  call_fn = function(event, ...details) {
    var _a, _b;
    try {
      (_b = (_a = __privateGet(this, _options))[event]) == null ? void 0 : _b.call(_a, ...details);
    } catch (error) {
      setTimeout(() => {
        throw error;
      });
    }
  };
  url_get = function() {
    var _a;
    return ((_a = __privateGet(this, _options).url) != null ? _a : "").replace(/\/+$/, "");
  };
  path_get = function() {
    return `/streams/${__privateGet(this, _leaseId)}`;
  };
  var isId = (id) => typeof id === "string" && /^[A-Za-z0-9_-]{1,128}$/.test(id);
  var isStream = ({ status, answer }) => (status === 200 || status === 201) && isId(answer == null ? void 0 : answer.stream_id) && Number.isFinite(answer.heartbeat_in) && answer.heartbeat_in > 0;
  var failure = ({ status, kind, answer, retryAfter }) => Object.assign(new Error(kind ? answer.detail : `HTTP ${status}`), {
    status,
    retryAfter,
    problem: kind ? answer : void 0
  });
  var read = (response) => __async(null, null, function* () {
    var _a;
    if (!((_a = response.body) == null ? void 0 : _a.getReader)) return response.text();
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let text = "";
    for (let size = 0; ; ) {
      const { done, value } = yield reader.read();
      if (done) return text + decoder.decode();
      size += value.length;
      if (size > LONGEST_ANSWER) throw new Error("The answer is too long");
      text += decoder.decode(value, { stream: true });
    }
  });
  var unanswered = (cause, secret) => {
    const text = typeof (cause == null ? void 0 : cause.message) === "string" ? cause.message : "No answer";
    return secret && text.includes(secret) ? new Error("No answer") : new Error(text, { cause });
  };
  var seconds = (text, sentAt) => {
    const wait = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.parse(sentAt)) / SECOND;
    return clamp(wait || 0, 0, LONGEST_RETRY_AFTER);
  };
  var clamp = (value, least, most) => Math.min(Math.max(value, least), most);
  var sleep = (seconds2) => new Promise((done) => setTimeout(done, seconds2 * SECOND));
  var within = (seconds2, promise) => {
    let timer;
    const late = new Promise((done) => timer = setTimeout(done, seconds2 * SECOND));
    return after(Promise.race([promise, late]), () => clearTimeout(timer));
  };
  var after = (promise, act) => promise.then(
    (value) => (act(), value),
    (error) => {
      act();
      throw error;
    }
  );
  var fit = (text, most) => typeof text === "string" ? Array.from(text, (one) => /^[\ud800-\udfff]$/.test(one) ? "\uFFFD" : one).slice(0, most).join("") : text;
  var abandoned = {
    list() {
      try {
        const isOurs = (id) => typeof id === "string" && /^\d{1,3}-[A-Za-z0-9_-]{22}$/.test(id);
        return JSON.parse(sessionStorage.getItem(ABANDONED)).filter(isOurs);
      } catch (e) {
        return [];
      }
    },
    keep(ids) {
      try {
        sessionStorage.setItem(ABANDONED, JSON.stringify(ids.slice(0, MOST_ABANDONED)));
      } catch (e) {
      }
    },
    add(id) {
      this.keep([id, ...this.list().filter((one) => one !== id)]);
    },
    remove(ids) {
      this.keep(this.list().filter((one) => !ids.includes(one)));
    }
  };
  var deviceIdOfBrowser = () => {
    try {
      pageId = fit(localStorage.getItem(DEVICE_ID), LONGEST_DEVICE_ID) || (pageId != null ? pageId : pageId = newKey());
      localStorage.setItem(DEVICE_ID, pageId);
    } catch (e) {
      pageId != null ? pageId : pageId = newKey();
    }
    return pageId;
  };
  var pageId;
  var newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
  return __toCommonJS(stream_client_exports);
})();
