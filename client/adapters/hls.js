/** Plays a film with hls.js while the account has a stream. Returns what `play` returns. */
import { play } from "../stream-client.js";

export function playWithHls(Hls, video, src, options = {}) {
  let hls, token;
  const hide = () => (hls?.destroy(), (hls = null));
  const show = () => {
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
  return { stop: () => (hide(), playing.stop()), playing, get player() { return hls; } };
}
