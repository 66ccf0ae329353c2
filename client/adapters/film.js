/** What the adapters share: a film is shown while the account has a stream, and not otherwise. */
import { play } from "../stream-client.js";

/**
 * `on(type, act)` listens to the picture; `show(token)` is called with each new playback token,
 * `hide()` when the stream is over.
 */
export function playFilm(on, options, show, hide) {
  const hold = (then) => (stream) => (show(stream.playback_token), then?.(stream));
  const over = (then) => (...why) => (hide(), then?.(...why));
  const playing = play({
    ...options,
    onStarted: hold(options.onStarted),
    onBeat: hold(options.onBeat),
    onResumed: hold(options.onResumed),
    onRefused: over(options.onRefused),
    onEnded: over(options.onEnded),
  });
  on("pause", () => playing.setPaused(true));
  on("playing", () => playing.setPaused(false));
  on("ended", () => playing.stop());
  return playing;
}
