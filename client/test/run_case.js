/** A runner of cases, as docs/clients.md wants one: in virtual time, against the stand-in service. */
import { Agent, request } from "node:http";

import { World, storage } from "./world.js";

const ABANDONED = "stream-service.abandoned";
const agent = new Agent({ keepAlive: true });

/** What is answered, as text: { status, headers, text }. */
export const ask = (method, url, headers = {}, body = undefined) =>
  new Promise((resolve, reject) => {
    const asked = request(url, { method, headers, agent }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (piece) => (text += piece));
      response.on("end", () => resolve({ status: response.statusCode, headers: response.headers, text }));
    });
    asked.on("error", reject).end(body);
  });

/** Runs one case that the stand-in has handed out; what it says was wrong. */
export const run = async ({ url, options, do: acts, seconds }) => {
  const world = new World();
  const forwarded = async ({ at, path, headers, options: { body } }) => {
    const answer = await ask("POST", path, { ...headers, "Case-Time": at }, body);
    if (answer.headers["case-answer"] === "no answer") return undefined;
    if (answer.headers["case-answer"]) return new TypeError("no network");
    const { "content-type": type = null, "case-answer-after": after = 0, ...rest } = answer.headers;
    return { status: answer.status, type, headers: rest, body: answer.text, delay: after * 1000 };
  };
  try {
    world.network = forwarded;
    const { grace_seconds: graceSeconds, pause_seconds: pauseSeconds } = options ?? {};
    const { abandoned, replace, device, content, device_id: deviceId = false } = options ?? {};
    if (abandoned) globalThis.sessionStorage = storage({ [ABANDONED]: JSON.stringify(abandoned) });
    const headers = ({ refused }) => {
      if (options.headers === "broken") throw Object.assign(new Error(), { status: 401, retryAfter: NaN });
      return { Authorization: refused ? "new" : "old" };
    };
    const begin = () =>
      world.play({
        url,
        deviceId,
        device,
        content,
        pauseSeconds,
        ...(graceSeconds === undefined ? {} : { graceSeconds }),
        ...(replace === undefined ? {} : { replace }),
        ...(options?.headers ? { headers } : {}),
      });
    let playing = begin();
    let stopped;
    for (const [at, what] of acts ?? []) {
      await world.pass(at - world.now / 1000);
      if (what === "stop") playing.stop().then((done) => (stopped = [world.now / 1000, done]));
      else if (what === "zap" || (what === "play" && playing.state === "over")) {
        playing.stop();
        playing = begin();
      } else if (what === "close" || what === "kill") {
        if (what === "close") world.dispatch("pagehide");
        await world.kill();
        playing = { state: "over", stop() {} };
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
    const said = JSON.stringify({ told, stopped, state: playing.state });
    const verdict = await ask("POST", `${url}/done`, { "Case-Time": seconds }, said);
    return JSON.parse(verdict.text).wrong;
  } finally {
    await world.close();
  }
};
