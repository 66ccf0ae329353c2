// The console: figures of this moment, and one session's slots to try the service on.
const POLL_MILLISECONDS = 2000;
const POINTS = 90; // three minutes
const FEWEST_POINTS = 20; // a young chart is stretched
const TICK_MILLISECONDS = 250;

const byId = (id) => document.getElementById(id);
const decimals = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

// --- What is happening ---

const series = { active: [], starts: [], refused: [], heartbeats: [] };
let before = null;

async function poll() {
  try {
    const response = await fetch("console/state");
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    show(await response.json());
  } catch {
    say(byId("store"), "The service gives no answer", "DOWN");
    before = null;
  }
  setTimeout(poll, POLL_MILLISECONDS);
}

function show(state) {
  say(byId("store"), state.store === "UP" ? "Store is up" : "Store is away", state.store);
  const now = {
    at: performance.now(),
    process: state.process,
    starts: (state.starts.admitted ?? 0) + (state.starts.replacing ?? 0),
    refused: state.starts.refused ?? 0,
    heartbeats: total(state.heartbeats),
  };
  // Behind one port there can be several processes, each with counts of its own.
  if (before !== null && before.process === now.process) {
    const seconds = (now.at - before.at) / 1000;
    for (const name of ["starts", "refused", "heartbeats"]) {
      const rate = Math.max(0, now[name] - before[name]) / seconds;
      byId(name).textContent = decimals.format(rate);
      draw(name, rate);
    }
  }
  before = now;
  byId("active").textContent = state.active === null ? "?" : whole.format(state.active);
  byId("silent").textContent = state.active === null
    ? "the store gives no count" : `${whole.format(state.silent)} missed a heartbeat`;
  draw("active", state.active ?? 0);
  byId("starts-all").textContent = `${whole.format(now.starts)} since the process started`;
  byId("refused-all").textContent = `${whole.format(now.refused)} since the process started`;
  byId("heartbeats-all").textContent =
    `${whole.format(state.heartbeats.renewed ?? 0)} renewed of ${whole.format(now.heartbeats)}`;
  byId("process").textContent =
    `stream-service ${state.version} · process ${state.process} · limit ${state.limit} · lease ${state.lease_seconds} s`;
  showProblems(state.problems);
  ahead = Date.parse(state.now) - Date.now();
  slots.limits(state.limit, state.lease_seconds);
}

function draw(name, value) {
  const values = series[name];
  values.push(value);
  if (values.length > POINTS) values.shift();
  const top = Math.max(1, ...values) * 1.1;
  const step = 240 / (Math.max(FEWEST_POINTS, values.length) - 1);
  const points = values.map((one, index) => {
    const x = 240 - (values.length - 1 - index) * step;
    return `${x.toFixed(1)},${(54 - (one / top) * 50).toFixed(1)}`;
  });
  const svg = document.querySelector(`[data-series="${name}"] svg`);
  const first = points[0].split(",")[0];
  svg.querySelector(".line").setAttribute("d", `M${points.join("L")}`);
  svg.querySelector(".area").setAttribute("d", `M${first},56L${points.join("L")}L240,56Z`);
}

function showProblems(problems) {
  byId("no-problems").hidden = problems.length > 0;
  byId("problems-box").hidden = problems.length === 0;
  byId("problems").replaceChildren(
    ...problems.map(({ last, status, kind, method, route, count }) => {
      const row = document.createElement("tr");
      const path = route === null ? "no such route" : `${method} ${route}`;
      for (const text of [new Date(last).toLocaleTimeString(), status, kind, path, whole.format(count)]) {
        row.insertCell().textContent = text;
      }
      row.lastChild.className = "number";
      return row;
    }),
  );
}

function say(element, text, is) {
  if (element.textContent !== text) element.textContent = text;
  element.dataset.is = is;
}

// --- One session's slots ---

const DEVICES = ["Living-room TV", "Phone", "Tablet", "Laptop", "Kitchen TV"];
let ahead = 0; // milliseconds by which the service's clock is ahead of this device's

class Slots {
  #session = "";
  #streams = new Map(); // by slot number
  #limit = 3;
  #lease = 60;
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

  limits(limit, lease) {
    if (limit === this.#limit && lease === this.#lease && byId("slots").children.length) return;
    this.#limit = limit;
    this.#lease = lease;
    this.#render();
  }

  async #ask(method, path, body) {
    const headers = { "Session-Id": this.#session };
    if (body) headers["Content-Type"] = "application/json";
    const began = performance.now();
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    const answer = await response.json().catch(() => ({}));
    const took = `${method} /${path} → ${response.status} in ${decimals.format(performance.now() - began)} ms`;
    return { ok: response.ok, status: response.status, answer, took };
  }

  #said(text, is) {
    say(byId("said"), text, is);
  }

  async look() {
    this.#session = byId("session").value;
    this.#keeping.clear();
    const { ok, answer, took } = await this.#ask("GET", "streams");
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
    const { ok, answer, took } = await this.#ask("POST", "streams", { device, replace });
    if (ok) {
      this.#streams.set(slotOf(answer), answer);
      this.#limit = answer.limit;
      this.#render();
      byId("device").placeholder = DEVICES[(DEVICES.indexOf(byId("device").placeholder) + 1) % DEVICES.length];
      return this.#said(`${took}. Slot ${slotOf(answer)} is taken: ${answer.active} of ${answer.limit}.`, "good");
    }
    if (answer.streams) this.#take(answer.streams, answer.limit);
    return this.#said(`${took}. ${answer.detail}`, "bad");
  }

  async #beat(stream, byItself = false) {
    const { ok, answer, took } = await this.#ask("POST", `streams/${stream.stream_id}/heartbeat`);
    if (ok) {
      this.#streams.set(slotOf(stream), answer);
      if (this.#keeping.has(stream.stream_id)) {
        this.#keeping.set(stream.stream_id, Date.now() + answer.heartbeat_in * 1000);
      }
      if (byItself) return undefined; // not read out each time
      return this.#said(`${took}. The next heartbeat is wanted in ${answer.heartbeat_in} s.`, "good");
    }
    this.#over(stream);
    return this.#said(`${took}. ${answer.detail}`, "bad");
  }

  async #stop(stream) {
    const { ok, answer, took } = await this.#ask("DELETE", `streams/${stream.stream_id}`);
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
    box.addEventListener("change", () => {
      if (box.checked) this.#keeping.set(stream.stream_id, 0);
      else this.#keeping.delete(stream.stream_id);
    });
    keep.append(box, "Beat by itself");
    const buttons = element("div", { className: "buttons" });
    for (const [text, act] of [
      ["Beat", () => this.#beat(this.#streams.get(slot))],
      ["Replace", () => this.#start(stream.stream_id)],
      ["Stop", () => this.#stop(this.#streams.get(slot))],
    ]) {
      const button = element("button", { type: "button", textContent: text });
      button.setAttribute("aria-label", `${text} ${name} in slot ${slot}`);
      button.addEventListener("click", act);
      buttons.append(button);
    }
    const since = new Date(stream.started_at).toLocaleTimeString();
    card.append(
      element("span", { className: "number", textContent: `Slot ${slot} · since ${since}` }),
      element("h3", { textContent: name }),
      lease, bar, keep, buttons,
    );
    return card;
  }
}

// Opaque to everybody else: this page belongs to the service.
const slotOf = (stream) => Number(stream.stream_id.split("-", 1)[0]);
const left = (stream) => (Date.parse(stream.expires_at) - Date.now() - ahead) / 1000;
const element = (name, properties) => Object.assign(document.createElement(name), properties);

const slots = new Slots();
poll();
