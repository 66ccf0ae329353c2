// Support: what one account plays, and ending it.
import { ask, byId, clockTime, duration, element, say } from "./dom.js";

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
    byId("end-all-cancel").addEventListener("click", () => this.#asked(false));
  }

  // Takes over what the service says of itself.
  service({ now, lease_seconds: lease }) {
    this.#lease = lease * 1000;
    this.#ahead = Date.parse(now) - Date.now();
  }

  #forget(next) {
    this.#account = next;
    this.#show([]);
    this.#say("Looking it up…", "");
  }

  // A late answer, after another account was asked for, is dropped.
  async #look(account) {
    const { ok, answer, took } = await ask(account, "GET", "streams");
    if (account !== this.#account) return undefined;
    if (!ok) {
      this.#show([]);
      return this.#say(`${took}. ${answer.detail}`, "bad");
    }
    this.#show(answer.streams);
    return this.#say(
      answer.active === 0 ? "Nothing is playing on this account."
        : `${answer.active} of ${answer.limit} ${answer.limit === 1 ? "stream" : "streams"} active, at ${clockTime(Date.now())}.`,
      "good",
    );
  }

  async #end(stream) {
    const account = this.#account;
    const { ok, answer, took } = await ask(account, "DELETE", `streams/${stream.stream_id}`);
    if (account !== this.#account) return undefined;
    if (!ok) return this.#say(`${took}. ${answer.detail}`, "bad");
    await this.#look(account);
    if (account !== this.#account) return undefined;
    return this.#say(`Ended: ${stream.device ?? "unnamed device"}.`, "good");
  }

  async #endAll() {
    if (!byId("end-all").dataset.asked) return this.#asked(true);
    this.#asked(false);
    const account = this.#account;
    const { ok, answer, took } = await ask(account, "DELETE", "streams");
    if (account !== this.#account) return undefined;
    if (!ok) return this.#say(`${took}. ${answer.detail}`, "bad");
    await this.#look(account);
    if (account !== this.#account) return undefined;
    return this.#say(`${answer.ended} ended. Nothing is playing on this account, unless it starts again.`, "good");
  }

  #asked(asked) {
    const button = byId("end-all");
    button.dataset.asked = asked ? "yes" : "";
    button.textContent = asked ? `Really end all ${this.#streams.length}?` : "End all streams";
    byId("end-all-cancel").hidden = !asked;
  }

  #say(text, is) {
    say(byId("account-said"), text, is);
  }

  #show(streams) {
    this.#streams = streams;
    this.#asked(false);
    byId("end-all-box").hidden = streams.length === 0;
    byId("account-streams").replaceChildren(...streams.map((stream) => this.#item(stream)));
  }

  #item(stream) {
    const item = element("li", { className: "stream" });
    const facts = element("dl");
    for (const [name, text] of [
      ["Content", stream.content ?? "not named"],
      ["Started", this.#since(Date.parse(stream.started_at))],
      ["Last heartbeat", this.#lastHeartbeat(stream)],
      ["Lease ends", clockTime(stream.expires_at)],
    ]) {
      const pair = element("div");
      pair.append(element("dt", { textContent: name }), element("dd", { textContent: text }));
      facts.append(pair);
    }
    const name = stream.device ?? "Unnamed device";
    const button = element("button", { type: "button", textContent: "End" });
    button.setAttribute("aria-label", `End ${name}`);
    button.addEventListener("click", () => this.#end(stream));
    item.append(element("h3", { textContent: name }), facts, button);
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
