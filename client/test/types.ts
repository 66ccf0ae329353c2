/** What apps write has to pass the compiler, and what is wrong has not. Checked, never run. */
import { play } from "@stream-service/player-client";
import type { EndReason, Playing, PlayOptions, RequestError, Stream } from "@stream-service/player-client";

const playing: Playing = play();
const stopped: Promise<boolean> = playing.stop();
const held: string | undefined = playing.stream?.stream_id;

const options: PlayOptions = {
  url: "https://gateway.example",
  device: "TV",
  content: "Evening news",
  deviceId: false,
  replace: ["same-device", "stalest"],
  headers: async ({ refused }) => ({ Authorization: refused ? "new" : "old" }),
  credentials: "include",
  signal: new AbortController().signal,
  graceSeconds: 300,
  onStarted: ({ stream_id, limit }) => [stream_id.length, limit?.toFixed()],
  onRefused: ({ limit, active, streams }) => streams.map(({ device }) => [device, limit - active]),
  onEnded: (reason, detail) => {
    if (reason === "replaced" && "replaced_by" in detail) return detail.replaced_by?.device;
    return undefined;
  },
  onError: (error: RequestError) => error.status ?? error.message,
  onOnline: (stream: Stream) => stream.playback_token,
};
play(options);
play({ replace: "oldest", headers: { Authorization: "x" } });
play({ headers: () => undefined });

// @ts-expect-error: no such option
play({ onPlay: () => undefined });
// @ts-expect-error: seconds are a number
play({ graceSeconds: "60" });
// @ts-expect-error: the client alone says what state it is in
playing.state = "over";
// @ts-expect-error: fields of a stream may be missing
const token: string = playing.stream.playback_token;

export { held, stopped, token, type EndReason };
