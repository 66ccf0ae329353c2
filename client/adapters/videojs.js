/** Plays a film with Video.js while the account has a stream. Returns what `play` returns. */
import { play } from "../stream-client.js";

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
  const load = () => {
    player.src({ src, type: options.type ?? "application/x-mpegURL" });
    player.play();
  };
  const show = () => {
    const at = player.currentTime();
    if (!player.currentSrc()) return load();
    // The service answers again, so the network is back: begin anew where it ran dry.
    if (!excluded || player.paused() || player.readyState() > 2) return;
    (excluded = false), load(), player.one("loadedmetadata", () => player.currentTime(at));
  };
  const hold = (then) => (stream) => ((token = stream.playback_token), show(), then?.(stream));
  const over = (then) => (...why) => (player.reset(), then?.(...why));
  const playing = play({
    ...options,
    onStarted: hold(options.onStarted),
    onBeat: hold(options.onBeat),
    onResumed: hold(options.onResumed),
    onRefused: over(options.onRefused),
    onEnded: over(options.onEnded),
  });
  player.one("ended", () => playing.stop());
  return { stop: () => (player.reset(), playing.stop()), playing, player };
}
