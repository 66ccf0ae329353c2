/** Plays a film with Shaka Player while the account has a stream. Returns what `play` returns. */
import { play } from "../stream-client.js";

export function playWithShaka(shaka, video, src, options = {}) {
  let player, token;
  const hide = () => (player?.destroy(), (player = null));
  const show = async () => {
    if (player) return;
    const made = (player = new shaka.Player());
    // A network that is away, or a token that is just being renewed, passes.
    made.configure({ streaming: { failureCallback: () => setTimeout(() => made.retryStreaming(), 1000) } });
    made.configure(options.shaka ?? {});
    made.getNetworkingEngine().registerRequestFilter((_, request) => {
      if (token) request.headers["Playback-Token"] = token;
    });
    try {
      await made.attach(video);
      await made.load(src);
      await video.play();
    } catch (error) {
      if (player === made) hide(), playing.stop(), options.onFilmError?.(error);
    }
  };
  const hold = (then) => (stream) => ((token = stream.playback_token), show(), then?.(stream));
  const over = (then) => (...why) => (hide(), then?.(...why));
  const playing = play({
    ...options,
    onStarted: hold(options.onStarted),
    onBeat: hold(options.onBeat),
    onResumed: hold(options.onResumed),
    onRefused: over(options.onRefused),
    onEnded: over(options.onEnded),
  });
  video.addEventListener("ended", () => playing.stop(), { once: true });
  return { stop: () => (hide(), playing.stop()), playing, get player() { return player; } };
}
