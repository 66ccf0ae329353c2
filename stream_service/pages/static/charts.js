// Small charts of the last minutes. A gap is drawn where nothing is known, and a value is told on
// hover, by touch and by the arrow keys: an input of type range lies over each chart.
import { clockTime, element } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 64;
const SVG = "http://www.w3.org/2000/svg";

const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const perSecond = (value) => `${number.format(value)}\u00a0a\u00a0second`;
const percent = (value) => `${number.format(value * 100)}\u00a0%`;
const seconds = (value) => (value < 1 ? `${number.format(value * 1000)}\u00a0ms` : `${number.format(value)}\u00a0s`);

const CHARTS = [
  { name: "refusals", title: "Refusal ratio", lines: { refusal_ratio: "" }, format: percent, none: "none decided",
    about: "of the starts that were decided" },
  { name: "starts", title: "Starts", lines: { starts: "" }, format: perSecond, about: "streams started" },
  { name: "heartbeats", title: "Heartbeats", lines: { heartbeats: "" }, format: perSecond, about: "all, whatever the answer" },
  { name: "errors", title: "Errors", lines: { errors: "" }, format: perSecond, about: "answers of 500 and above" },
  { name: "latency", title: "Latency", lines: { p50: "p50", p99: "p99" }, format: seconds, none: "no requests",
    about: "to answer viewers, in the service" },
  { name: "database-wait", title: "Wait for a command", lines: { database_wait: "" }, format: seconds, none: "no commands",
    about: "p99, until a batch is sent" },
  { name: "batch-size", title: "Batch size", lines: { batch_size: "" }, format: number.format, none: "no commands",
    about: "requests that share a command" },
  { name: "active", title: "Active streams", lines: { active: "" }, format: count.format, none: "not counted",
    about: "in the database, of all processes" },
];

class Chart {
  #about;
  #figure = element("p", { className: "figure" });
  #when = element("p", { className: "when" });
  #range = element("input", { type: "range", min: 0, max: 0, value: 0 });
  #svg = document.createElementNS(SVG, "svg");
  #top = element("span", { className: "top" });
  #points = [];
  #step = 0;
  #at = [];
  current = null; // index of the value of now, if it is known

  constructor(about, onPoint) {
    this.#about = about;
    this.box = element("article", { className: "chart" });
    this.box.dataset.chart = about.name;
    this.#svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("aria-hidden", "true");
    this.#range.setAttribute("aria-label", `${about.title}, values of the last minutes`);
    this.#range.disabled = true;
    const plot = element("div", { className: "plot" });
    plot.append(this.#svg, this.#top, this.#range);
    const axis = element("p", { className: "axis" });
    axis.append(element("span", { className: "from" }), element("span", { className: "to" }));
    this.box.append(
      element("h2", { textContent: about.title }), element("p", { className: "note", textContent: about.about }),
      this.#figure, this.#when, plot, axis,
    );
    const point = () => onPoint(Number(this.#range.value));
    this.#range.addEventListener("input", point);
    this.#range.addEventListener("focus", point);
    this.#range.addEventListener("blur", () => onPoint(null));
    plot.addEventListener("pointermove", (event) => {
      const { left, width } = plot.getBoundingClientRect();
      onPoint(this.#nearest(((event.clientX - left) / width) * WIDTH));
    });
    plot.addEventListener("pointerleave", () => onPoint(null));
  }

  show(history, now) {
    const end = Date.parse(now);
    const interval = history.interval_seconds * 1000;
    // From the start of the process, if that is not longer ago.
    const span = Math.min(history.window_seconds * 1000, interval + end - Date.parse(history.at[0] ?? now));
    this.#at = history.at;
    const x = history.at.map((at) => WIDTH * (1 - (end - Date.parse(at)) / span));
    const step = (WIDTH * interval) / span;
    this.#points = x;
    this.#step = step;
    this.lines = Object.keys(this.#about.lines).map((name) => history[name]);
    const known = this.lines.flat().filter((value) => value !== null);
    const most = Math.max(0, ...known);
    const scale = most > 0 ? (HEIGHT - 8) / most : 0;
    const y = (value) => HEIGHT - 2 - value * scale;
    const parts = history.database.flatMap((up, index) => (up ? [] : [rect(x[index] - step, step)]));
    this.lines.forEach((values, index) => {
      for (const run of runs(values, x, step)) {
        const line = run.map((at) => `${x[at].toFixed(1)},${y(values[at]).toFixed(1)}`);
        // One value alone is a short dash.
        if (run.length === 1) line.unshift(`${(x[run[0]] - step).toFixed(1)},${y(values[run[0]]).toFixed(1)}`);
        parts.push(path(`M${line.join("L")}`, `line line-${index}`));
      }
    });
    const cursor = path("", "cursor");
    this.#svg.replaceChildren(...parts, cursor);
    this.#top.textContent = most > 0 ? `max ${this.#about.format(most)}` : "";
    this.box.querySelector(".to").textContent = clockTime(now);
    this.box.querySelector(".from").textContent = clockTime(end - span);
    this.#range.disabled = x.length === 0;
    this.#range.max = Math.max(0, x.length - 1);
    this.current = x.length && end - Date.parse(history.at.at(-1)) < 3 * interval ? x.length - 1 : null;
  }

  // Tell the value of one moment, or of now.
  point(index) {
    const at = index ?? this.current;
    this.#svg.querySelector(".cursor")?.setAttribute(
      "d", index === null || this.#points[index] === undefined ? "" : `M${this.#points[index]},0V${HEIGHT}`,
    );
    // With two lines, the figures are their legend.
    const figures = Object.values(this.#about.lines).map((name, line) => {
      const value = at === null ? undefined : this.lines?.[line]?.[at];
      const text = value === undefined || value === null ? "–" : this.#about.format(value);
      return element("span", { className: name && `key key-${line}`, textContent: name ? `${name}\u00a0${text}` : text });
    });
    const unknown = figures.every(({ textContent }) => textContent.endsWith("–"));
    this.#figure.replaceChildren(...figures.flatMap((figure) => [figure, " "]));
    const reason = unknown && at !== null && this.#about.none ? this.#about.none : "";
    const when = index === null ? "" : `at ${clockTime(this.#at[index])}`;
    this.#when.textContent = [when, reason || (unknown ? "not known yet" : "")].filter(Boolean).join(": ") || "\u00a0";
    this.#range.value = at ?? 0;
    this.#range.setAttribute("aria-valuetext", at === null ? "not known" : `${reason || this.#figure.textContent.trim()} at ${clockTime(this.#at[at])}`);
  }

  // The entry that is drawn there, if there is one.
  #nearest(wanted) {
    let nearest = null;
    let distance = 2 * this.#step;
    this.#points.forEach((x, index) => {
      if (Math.abs(x - wanted) >= distance) return;
      nearest = index;
      distance = Math.abs(x - wanted);
    });
    return nearest;
  }
}

// Indexes that may be joined by a line: each known, and none missing between them.
function runs(values, x, step) {
  const found = [];
  let run = [];
  values.forEach((value, index) => {
    const joined = run.length && x[index] - x[index - 1] < 2 * step;
    if (run.length && (value === null || !joined)) {
      found.push(run);
      run = [];
    }
    if (value !== null) run.push(index);
  });
  return run.length ? [...found, run] : found;
}

function path(d, className) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("d", d);
  made.setAttribute("class", className);
  return made;
}

function rect(x, width) {
  const made = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ x, y: 0, width, height: HEIGHT, class: "down" })) made.setAttribute(name, value);
  return made;
}

export class Charts {
  #charts;
  #pointed = null; // the moment that all charts tell of, by its index; null is now

  constructor(place) {
    this.#charts = CHARTS.map((about) => new Chart(about, (index) => this.#point(index)));
    place.append(...this.#charts.map(({ box }) => box));
    this.#point(null);
  }

  show({ history, now }) {
    for (const chart of this.#charts) chart.show(history, now);
    this.#point(this.#pointed === null || this.#pointed >= history.at.length ? null : this.#pointed);
  }

  #point(index) {
    this.#pointed = index;
    for (const chart of this.#charts) chart.point(index);
  }
}
