// One account's slots, to try the service on.
import { ask, byId, clockTime, element, say } from "./dom.js";

const TICK_MILLISECONDS = 250;
const DEVICES = ["Living-room TV", "Phone", "Tablet", "Laptop", "Kitchen TV"];
let ahead = 0; // milliseconds by which the service's clock is ahead of this device's

export class Slots {
  #session = "";
  #streams = new Map(); // by slot number
  #limit = 3;
  #lease = 60;
  #unanswered = null; // the start of which it is unknown whether it was made, and its key
  #leases = new Map(); // lease id by stream id, of what was started here
  #keeping = new Map(); // stream id to the time of its next heartbeat

  constructor() {
    byId("device").placeholder = DEVICES[0];
    byId("session").value = `visitor-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
    byId("session-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.look();
    });
    byId("start-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#start(byId("replace").value || null);
    });
    this.#session = byId("session").value;
    setInterval(() => this.#tick(), TICK_MILLISECONDS);
  }

  // Takes over what the service says of itself.
  service({ now, limit, lease_seconds: lease }) {
    ahead = Date.parse(now) - Date.now();
    if (limit === this.#limit && lease === this.#lease && byId("slots").children.length) return;
    this.#limit = limit;
    this.#lease = lease;
    this.#render();
  }

  #said(text, is) {
    say(byId("said"), text, is);
  }

  async look() {
    this.#session = byId("session").value;
    this.#keeping.clear();
    const { ok, answer, took } = await ask(this.#session, "GET", "streams");
    if (!ok) return this.#said(`${took}. ${answer.detail}`, "bad");
    this.#take(answer.streams, answer.limit);
    this.#said(`${took}. ${answer.active} of ${answer.limit} streams are active.`, "good");
  }

  #take(streams, limit) {
    this.#limit = limit;
    this.#streams = new Map(streams.map((stream) => [slotOf(stream), stream]));
    this.#render();
  }

  async #start(replace) {
    if (byId("session").value !== this.#session) await this.look();
    const device = byId("device").value || byId("device").placeholder;
    const asked = JSON.stringify([this.#session, device, replace]);
    const key = this.#unanswered?.asked === asked ? this.#unanswered.key : newKey();
    const { ok, status, answer, took } = await ask(
      this.#session, "POST", "streams", { device, replace }, { "Idempotency-Key": key },
    );
    this.#unanswered = status === 0 || status >= 500 ? { asked, key } : null;
    if (ok) {
      this.#leases.set(answer.stream_id, answer.lease_id);
      this.#streams.set(slotOf(answer), answer);
      this.#limit = answer.limit;
      this.#render();
      byId("device").placeholder = DEVICES[(DEVICES.indexOf(byId("device").placeholder) + 1) % DEVICES.length];
      return this.#said(`${took}. Slot ${slotOf(answer)} is taken: ${answer.active} of ${answer.limit}.`, "good");
    }
    if (answer.streams) this.#take(answer.streams, answer.limit);
    return this.#said(`${took}. ${answer.detail}`, "bad");
  }

  async #beat(stream, automatic = false) {
    const { ok, answer, took } = await ask(this.#session, "POST", `streams/${this.#leases.get(stream.stream_id)}/heartbeat`);
    if (ok) {
      this.#streams.set(slotOf(stream), { ...stream, ...answer });
      if (this.#keeping.has(stream.stream_id)) {
        this.#keeping.set(stream.stream_id, Date.now() + answer.heartbeat_in * 1000);
      }
      if (automatic) return undefined; // not read out each time
      return this.#said(`${took}. The next heartbeat is wanted in ${answer.heartbeat_in} s.`, "good");
    }
    this.#over(stream);
    return this.#said(`${took}. ${answer.detail}`, "bad");
  }

  async #stop(stream) {
    const { ok, answer, took } = await ask(this.#session, "DELETE", `streams/${stream.stream_id}`);
    this.#over(stream);
    this.#said(ok ? `${took}. Slot ${slotOf(stream)} is free.` : `${took}. ${answer.detail}`, ok ? "good" : "bad");
  }

  #over(stream) {
    this.#keeping.delete(stream.stream_id);
    if (this.#streams.get(slotOf(stream))?.stream_id !== stream.stream_id) return;
    this.#streams.delete(slotOf(stream));
    this.#render();
  }

  #tick() {
    for (const stream of [...this.#streams.values()]) {
      const seconds = left(stream);
      const next = this.#keeping.get(stream.stream_id);
      if (seconds <= 0) {
        this.#over(stream);
        this.#said(`The lease of slot ${slotOf(stream)} ran out: the slot is free again.`, "bad");
      } else if (next !== undefined && Date.now() >= next) {
        this.#keeping.set(stream.stream_id, Date.now() + 1000);
        this.#beat(stream, true);
      } else this.#showLease(slotOf(stream), seconds);
    }
  }

  #showLease(slot, seconds) {
    const card = document.querySelector(`[data-slot="${slot}"]`);
    card.querySelector(".left").textContent = `${Math.ceil(seconds)} s`;
    card.querySelector("progress").value = Math.min(1, seconds / this.#lease);
    // A beat is wanted when two thirds are left.
    card.classList.toggle("late", seconds < this.#lease * 0.6);
  }

  #render() {
    const focused = document.activeElement.closest("[data-slot]")?.dataset.slot;
    const highest = Math.max(this.#limit, ...[...this.#streams.keys()].map((slot) => slot + 1));
    byId("slots").replaceChildren(
      ...Array.from({ length: highest }, (_, slot) => this.#card(slot, this.#streams.get(slot))),
    );
    for (const [slot, stream] of this.#streams) this.#showLease(slot, left(stream));
    if (focused !== undefined) document.querySelector(`[data-slot="${focused}"]`)?.focus();
  }

  #card(slot, stream) {
    const card = element("li", { className: stream ? "slot" : "slot free", tabIndex: -1 });
    card.dataset.slot = slot;
    if (!stream) {
      card.append(element("p", { textContent: `Slot ${slot} is free` }));
      return card;
    }
    const name = stream.device ?? "Unnamed device";
    const lease = element("div", { className: "lease" });
    lease.append(element("span", { textContent: "Lease" }), element("span", { className: "left" }));
    const bar = element("progress", { max: 1 });
    bar.setAttribute("aria-label", `Lease of ${name} in slot ${slot}`);
    const keep = element("label", { className: "keep" });
    const box = element("input", { type: "checkbox", checked: this.#keeping.has(stream.stream_id) });
    // Only who started a stream has its lease id.
    box.disabled = !this.#leases.has(stream.stream_id);
    box.addEventListener("change", () => {
      if (box.checked) this.#keeping.set(stream.stream_id, 0);
      else this.#keeping.delete(stream.stream_id);
    });
    keep.append(box, "Auto-heartbeat");
    const buttons = element("div", { className: "buttons" });
    for (const [text, act] of [
      ["Heartbeat", () => this.#beat(this.#streams.get(slot))],
      ["Replace", () => this.#start(stream.stream_id)],
      ["Stop", () => this.#stop(this.#streams.get(slot))],
    ]) {
      const button = element("button", { type: "button", textContent: text });
      button.setAttribute("aria-label", `${text} ${name} in slot ${slot}`);
      button.disabled = text === "Heartbeat" && box.disabled;
      button.addEventListener("click", act);
      buttons.append(button);
    }
    const since = clockTime(stream.started_at);
    card.append(
      element("span", { className: "number", textContent: `Slot ${slot} · since ${since}` }),
      element("h3", { textContent: name }),
      lease, bar, keep, buttons,
    );
    return card;
  }
}

const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
// Opaque to everybody else: this page belongs to the service.
const slotOf = (stream) => Number(stream.stream_id.split("-", 1)[0]);
const left = (stream) => (Date.parse(stream.expires_at) - Date.now() - ahead) / 1000;
