// Support: what one account plays, how its last streams ended, and ending them.
import { ask, byId, clockTime, duration, element, say } from "./dom.js";

const REASONS = { stopped: "Stopped", expired: "Lease ran out", replaced: "Replaced" };

export class Support {
  #lease = null; // milliseconds
  #ahead = 0; // milliseconds by which the service's clock is ahead of this device's
  #account = "";
  #streams = [];

  constructor() {
    byId("account-form").addEventListener("submit", (event) => {
      event.preventDefault();
      // What is shown belongs to the account that it was asked for.
      this.#forget(byId("account").value);
      this.#look(this.#account);
    });
    byId("account-forget").addEventListener("click", () => {
      byId("account").value = "";
      this.#forget("");
      this.#say("No account looked up.", "");
    });
    byId("end-all").addEventListener("click", () => this.#endAll());
  }

  // Takes over what the service says of itself.
  service({ now, lease_seconds: lease }) {
    this.#lease = lease * 1000;
    this.#ahead = Date.parse(now) - Date.now();
  }

  #forget(next) {
    this.#account = next;
    this.#hide();
    this.#say("Looking it up…", "");
  }

  #hide() {
    byId("account-found").hidden = true;
    byId("account-streams").replaceChildren();
    byId("account-ends").replaceChildren();
  }

  // A late answer, after another account was asked for, is dropped. Says first what was done before.
  async #look(account, done = "") {
    const { ok, answer, took } = await ask(account, "GET", "console/account");
    if (account !== this.#account) return undefined;
    if (!ok) {
      this.#hide();
      return this.#fail(answer, took, done);
    }
    this.#show(answer);
    const { active, limit, plan } = answer;
    const at = `at ${clockTime(Date.now())}`;
    const may = plan === null ? streams(limit) : `${streams(limit)} (plan ${plan})`;
    const playing = active === 0 ? `Nothing is playing ${at}. The account may have ${may}.`
      : `${active} of ${may} active ${at}.`;
    const known = answer.by_default ? " That is the default: its own limit is known from its last start, and none is stored." : "";
    return this.#say(`${done}${playing}${known}`, "good");
  }

  async #end(stream) {
    const name = stream.device ?? "unnamed device";
    await this.#ask(`End ${name}? Its player stops at its next heartbeat. A viewer can start it again.`, "End it", async (account) => {
      const { ok, answer, took } = await ask(account, "DELETE", `streams/${stream.stream_id}`);
      return { ok, answer, took, done: `Ended: ${name}. ` };
    });
  }

  async #endAll() {
    const all = this.#streams.length;
    await this.#ask(`End all ${streams(all)}? The players stop at their next heartbeats. Viewers can start again.`, `End all ${all}`, async (account) => {
      const { ok, answer, took } = await ask(account, "DELETE", "streams");
      return { ok, answer, took, done: `${answer.ended} ended. ` };
    });
  }

  async #ask(question, yes, act) {
    const account = this.#account;
    const dialog = byId("confirm");
    byId("confirm-text").textContent = question;
    byId("confirm-yes").textContent = yes;
    dialog.returnValue = "";
    dialog.showModal();
    await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
    if (dialog.returnValue !== "yes") return;
    const { ok, answer, took, done } = await act(account);
    if (account !== this.#account) return;
    byId("account-said").focus(); // the button that had it may be gone
    if (ok) await this.#look(account, done);
    else this.#fail(answer, took);
  }

  #fail({ title, detail }, took, done = "") {
    this.#say(`${done}${title ?? took}. ${detail}`, "bad");
  }

  #say(text, is) {
    say(byId("account-said"), text, is);
  }

  #show({ account, streams: playing, ends, retention_seconds: retention }) {
    this.#streams = playing;
    byId("account-found").hidden = false;
    byId("playing").hidden = playing.length === 0;
    byId("account-streams").replaceChildren(...playing.map((stream) => this.#stream(stream)));
    byId("ends-title").textContent = ends.length === 0 ? "No end is remembered" : "Ended";
    byId("account-ends").replaceChildren(...ends.map((end) => this.#over(end)));
    byId("account-memory").textContent =
      `An end is remembered for ${duration(retention * 1000).replace(/ 0 (s|min)$/, "")} at least, and the last eight of a slot while it is in use. `
      + "Refusals are not stored: with EVENTS=1 the service writes a line for each start, refusal and end. "
      + `In these lines, and in the audit, the account begins with ${account}.`;
  }

  #stream(stream) {
    const { plan, limit, limits } = stream;
    const item = element("li", { className: "stream" });
    const name = stream.device ?? "Unnamed device";
    const button = element("button", { type: "button", textContent: "End" });
    button.setAttribute("aria-label", `End ${name}`);
    button.addEventListener("click", () => this.#end(stream));
    const total = limit === null ? "all streams" : `all streams (${limit})`;
    item.append(
      element("h4", { textContent: name }),
      button,
      facts([
        ["Content", stream.content ?? "not named"],
        ["Platform", stream.platform ?? "not named"],
        ["Started", this.#since(Date.parse(stream.started_at))],
        ["Last heartbeat", this.#lastHeartbeat(stream)],
        ["Lease ends", clockTime(stream.expires_at)],
        ...(plan === null ? [] : [["Plan", plan]]),
        ["Counts under", [total, ...limits].join(", ")],
      ]),
      element("code", { textContent: stream.stream_id }),
    );
    return item;
  }

  #over(end) {
    const item = element("li", { className: "end" });
    const name = end.exact ? end.device ?? "Unnamed device" : "An earlier stream";
    const what = [end.content, end.platform].filter((one) => one !== null).join(", ");
    const started = end.started_at === null ? "" : `, started ${clockTime(end.started_at)}`;
    item.append(
      element("strong", { textContent: REASONS[end.reason] }),
      element("span", { textContent: what ? `${name}: ${what}` : name }),
      element("span", { className: "when", textContent: `${end.exact ? "at" : "before"} ${clockTime(end.by)}${started}` }),
      element("code", { textContent: end.stream_id }),
    );
    return item;
  }

  // Each heartbeat sets the end of the lease to one lease from then.
  #lastHeartbeat(stream) {
    if (this.#lease === null) return "not known";
    const last = Date.parse(stream.expires_at) - this.#lease;
    return last - Date.parse(stream.started_at) < 50 ? "none since the start" : this.#since(last);
  }

  #since(moment) {
    return `${clockTime(moment)} (${duration(Date.now() + this.#ahead - moment)} ago)`;
  }
}

const streams = (number) => `${number} ${number === 1 ? "stream" : "streams"}`;

function facts(pairs) {
  const list = element("dl");
  for (const [name, text] of pairs) {
    const pair = element("div");
    pair.append(element("dt", { textContent: name }), element("dd", { textContent: text }));
    list.append(pair);
  }
  return list;
}
