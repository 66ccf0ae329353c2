/** A stream as the service describes it. Fields that are not listed may be added. */
export interface Stream {
  /** Opaque: names the stream to the devices of its account, and in `replace`. It renews nothing: the
   * client keeps the secret that does, and shows it to nobody. */
  stream_id: string;
  device: string | null;
  content: string | null;
  /** RFC 3339, UTC. */
  started_at: string;
  /** RFC 3339, UTC: when the lease runs out unless it is renewed. */
  expires_at: string;
  /** Seconds until the next heartbeat. The client sends it. */
  heartbeat_in: number;
  /** Only at a start: how many streams the account has, this one included. */
  active?: number;
  /** Only at a start: how many it may have. */
  limit?: number;
  /** Where the service signs them: proves to a content server that this stream is alive. */
  playback_token?: string;
}

/** One of the streams that are playing, as a refusal lists them. */
export type PlayingStream = Pick<
  Stream,
  "stream_id" | "device" | "content" | "started_at" | "expires_at"
>;

/** An error as the service tells it (RFC 9457). */
export interface Problem {
  /** `urn:stream-service:problem:` and the kind. */
  type: string;
  title: string;
  status: number;
  detail: string;
}

/** The account has as many streams as it may. */
export interface Refusal extends Problem, ReachedLimit {
  /** Where several limits are reached: all of them, the most hindering first. */
  rules?: ReachedLimit[];
}

export interface ReachedLimit {
  /** The limit by attribute that is reached; absent: the number of all streams. */
  rule?: string;
  limit: number;
  active: number;
  streams: PlayingStream[];
}

/** The stream was ended by somebody. */
export interface Ended extends Problem {
  reason: string;
  /** Present if the reason is `replaced`. */
  replaced_by?: { device: string | null; started_at: string };
}

/** One request that brought no answer of use: no network, no answer in time, or not the service's.
 * `cause` is what `fetch` or the app's `headers` threw, if one of them did. */
export interface RequestError extends Error {
  /** The HTTP status; absent if there was no answer. */
  status?: number;
  /** Seconds that the answer asked to wait, at most 60; 0 if it did not. */
  retryAfter?: number;
  /** What the service said, if it was the service that answered. */
  problem?: Problem;
}

/** `stopped` or `replaced`: the service said so. `rejected`: a start that will never do, or for
 * which the viewer is not logged in. `unreachable`: nobody answered for `graceSeconds`. `paused`: for
 * longer than `pauseSeconds`. */
export type EndReason =
  | "stopped" | "replaced" | "rejected" | "unreachable" | "paused" | (string & {});

export type HeaderValues = HeadersInit | undefined;

export interface PlayOptions {
  /** Where the gateway has the service; default: the page's own origin. */
  url?: string;
  /** What other devices of the account are shown, such as `Living-room TV`; cut to 200 characters. */
  device?: string;
  /** What is played, as other devices are shown it; cut to 200 characters. */
  content?: string;
  /** What it plays on, for the operator's figures: `web 3.4.1`. One that the service would refuse is not sent. */
  platform?: string;
  /** Names this device, so that `same-device` finds its stream: opaque, 1 to 128 characters. Default:
   * a random one that is kept in the browser's `localStorage`; `false` sends none. */
  deviceId?: string | false;
  /** Whose place the first start takes: a `stream_id`, `same-device`, `oldest`, `stalest`, or a list
   * of up to 8 of these, tried in order. */
  replace?: string | readonly string[];
  /** Headers for each start; heartbeats and stops need no login and carry none. A function is asked
   * before each start, and may be async. `refused` is true once a start was answered with 401 or 403,
   * until there is a stream: get new ones. */
  headers?: HeadersInit | ((state: { refused: boolean }) => HeaderValues | Promise<HeaderValues>);
  /** As for `fetch`; `include` sends cookies to another origin. */
  credentials?: RequestCredentials;
  /** Its abort is a `stop()`. */
  signal?: AbortSignal;
  /** For how many seconds it may go on after `onUnavailable` or `onOffline` without a stream; default:
   * for ever. */
  graceSeconds?: number;
  /** For how many seconds the picture may stand still, as `setPaused` tells, before the slot is freed
   * and this ends with `paused`; default: for ever. */
  pauseSeconds?: number;

  /** The account may watch: play. */
  onStarted?(stream: Stream): void;
  /** The lease was renewed. */
  onBeat?(stream: Stream): void;
  /** The stream was lost, in an outage or while the device slept, and has been started anew. */
  onResumed?(stream: Stream): void;
  /** Over: the account has as many streams as it may. Also after `onUnavailable`, or for a lost
   * stream whose slot somebody else has taken. */
  onRefused?(refusal: Refusal): void;
  /** Over, for this reason. */
  onEnded?(reason: EndReason, detail: Ended | RequestError): void;
  /** The first start was not answered. Told once; it goes on asking. An app that fails open plays. */
  onUnavailable?(error: RequestError): void;
  /** A heartbeat was not answered. Told once; it goes on asking, and the film goes on. */
  onOffline?(error: RequestError): void;
  /** A stream is held again: told once after each `onOffline`. */
  onOnline?(stream: Stream): void;
  /** Each request that brought no answer of use, for logs. */
  onError?(error: RequestError): void;
}

export interface Playing {
  readonly state: "starting" | "playing" | "resuming" | "over";
  /** The stream that is held, as described last; null while there is none. */
  readonly stream: Stream | null;
  /**
   * Ends the stream; no callback follows. Resolves, within 11 seconds, to true once there is none
   * for sure, and to false if nobody said so: then the lease frees the slot, or the next start of this
   * tab takes it. Never rejects.
   */
  stop(): Promise<boolean>;
  /** Tell it when the picture stands still, and when it moves again; the adapters do. */
  setPaused(paused: boolean): void;
}

/** Starts a stream and keeps it alive until it is over. */
export function play(options?: PlayOptions): Playing;
