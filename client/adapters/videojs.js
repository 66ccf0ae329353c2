/** Plays a film with Video.js while the account has a stream: `{ player, playing, stop() }`. */
import { playFilm } from "./film.js";

export function playWithVideojs(videojs, video, src, options = {}) {
  let token, excluded; // Video.js gives a rendition up for minutes after a few failures
  const player = videojs(video, { ...options.videojs });
  player.on("xhr-hooks-ready", () => {
    const tech = player.tech(true);
    tech.on("usage", ({ name }) => (excluded ||= name === "vhs-rendition-excluded"));
    tech.vhs.xhr.onRequest((request) => {
      if (token) request.headers = { ...request.headers, "Playback-Token": token };
      return request;
    });
  });
  player.on("error", () => {
    if (player.currentTime() > 0) return (excluded = true); // it played: the film is there
    const { message } = player.error();
    player.reset(), playing.stop(), options.onFilmError?.(message);
  });
  const load = (at = 0) => {
    player.src({ src, type: options.type ?? "application/x-mpegURL" });
    player.one("loadedmetadata", () => player.currentTime(at));
    player.play();
  };
  const show = (latest) => {
    token = latest;
    if (!player.currentSrc()) return load();
    // The service answers again, so the network is back: begin anew where it ran dry.
    if (!excluded || player.paused() || player.readyState() > 2) return;
    excluded = false;
    load(player.currentTime());
  };
  const on = (type, act) => player.on(type, act);
  const playing = playFilm(on, options, show, () => player.reset());
  return { playing, stop: () => (player.reset(), playing.stop()), player };
}
