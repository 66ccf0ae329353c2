/** Plays a film with Shaka Player while the account has a stream: `{ player, playing, stop() }`. */
import { playFilm } from "./film.js";

export function playWithShaka(shaka, video, src, options = {}) {
  let player, token;
  const hide = () => (player?.destroy(), (player = null));
  const show = async (latest) => {
    token = latest;
    if (player) return;
    const made = (player = new shaka.Player());
    // A network that is away, or a token that is just being renewed, passes.
    const failureCallback = () => setTimeout(() => made.retryStreaming(), 1000);
    made.configure({ streaming: { failureCallback } });
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
  const on = (type, act) => video.addEventListener(type, act);
  const playing = playFilm(on, options, show, hide);
  return { playing, stop: () => (hide(), playing.stop()), get player() { return player; } };
}
