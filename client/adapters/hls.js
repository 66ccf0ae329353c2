/** Plays a film with hls.js while the account has a stream: `{ player, playing, stop() }`. */
import { playFilm } from "./film.js";

export function playWithHls(Hls, video, src, options = {}) {
  let hls, token;
  const hide = () => (hls?.destroy(), (hls = null));
  const show = (latest) => {
    token = latest;
    if (hls) return;
    const xhrSetup = (request) => token && request.setRequestHeader("Playback-Token", token);
    hls = new Hls({ ...options.hls, xhrSetup });
    hls.on(Hls.Events.ERROR, (_, { fatal, type, details }) => {
      if (!fatal) return;
      // A network that is away, or a token that is just being renewed, passes. The rest does not.
      const passes = type === Hls.ErrorTypes.NETWORK_ERROR && !details.startsWith("manifest");
      if (passes) setTimeout(() => hls?.startLoad(), 1000);
      else hide(), playing.stop(), options.onFilmError?.(details);
    });
    hls.loadSource(src);
    hls.attachMedia(video);
    video.play();
  };
  const on = (type, act) => video.addEventListener(type, act);
  const playing = playFilm(on, options, show, hide);
  return { playing, stop: () => (hide(), playing.stop()), get player() { return hls; } };
}
