import { World, storage } from "./world.js";

const ABANDONED = "stream-service.abandoned";

/** What the client asks and tells in one case of the table, and the state that it ends in. */
export const run = async ({ options = {}, answers: names, do: acts = [], seconds }, answers) => {
  const world = new World();
  try {
    const keys = [];
    const requests = [];
    const labels = [];
    let lease; // as the last answer to a start told it
    world.network = ({ at, path, headers, body }, index) => {
      const name = names[Math.min(index, names.length - 1)];
      const what = [at];
      if (path.endsWith("/streams")) {
        const key = headers["idempotency-key"];
        if (!keys.includes(key)) keys.push(key);
        what.push(`start ${"abc"[keys.indexOf(key)]}`);
        const choices = [body.replace ?? []].flat();
        const extra = choices.length ? ["replace", ...choices] : [];
        if (body.device_id) extra.push("device_id");
        if (extra.length) what.push(extra.join(" "));
        labels.push([body.device ?? null, body.content ?? null]);
        lease = answers[name].body?.lease_id;
      } else if (path === `/streams/${lease}/heartbeat`) what.push("beat");
      else if (path === `/streams/${lease}/stop`) what.push("stop");
      else what.push(path);
      if (headers.authorization) what.push(headers.authorization);
      requests.push(what);
      const answer = answers[name];
      if (answer.hangs) return undefined;
      return answer.error ? new TypeError("no network") : { type: null, ...answer };
    };
    const { grace_seconds: graceSeconds, pause_seconds: pauseSeconds } = options;
    const { device_id: deviceId = false } = options;
    const { abandoned, replace, device, content } = options;
    if (abandoned) globalThis.sessionStorage = storage({ [ABANDONED]: JSON.stringify(abandoned) });
    const headers = ({ refused }) => {
      if (options.headers === "broken") throw Object.assign(new Error(), { status: 401, retryAfter: NaN });
      return { Authorization: refused ? "new" : "old" };
    };
    const begin = () =>
      world.play({
        deviceId,
        device,
        content,
        pauseSeconds,
        ...(graceSeconds === undefined ? {} : { graceSeconds }),
        ...(replace === undefined ? {} : { replace }),
        ...(options.headers ? { headers } : {}),
      });
    let playing = begin();
    let stopped;
    for (const [at, what] of acts) {
      await world.pass(at - world.now / 1000);
      if (what === "stop") playing.stop().then((done) => (stopped = [world.now / 1000, done]));
      else if (what === "zap") {
        playing.stop();
        playing = begin();
      } else if (what === "online") world.dispatch(what);
      else playing.setPaused(what === "pause");
    }
    await world.pass(seconds - world.now / 1000);
    const told = world.told
      .filter(([name]) => name !== "onError")
      .map(([name, at, ...details]) => {
        const event = name.slice(2).toLowerCase();
        return event === "ended" ? [at, event, details[0]] : [at, event];
      });
    const { state } = playing;
    return { requests: [...requests], told, labels, stopped, state };
  } finally {
    await world.close();
  }
};
