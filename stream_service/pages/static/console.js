// The console: what is known of the last 15 minutes, support for one account, and slots to try.
import { Charts } from "./charts.js";
import { byId, clockTime, duration, element, say, whole } from "./dom.js";
import { Support } from "./support.js";
import { Slots } from "./try.js";

const POLL_MILLISECONDS = 2500;
const PATIENCE_MILLISECONDS = 6000; // the service itself waits 2 s for its database
const FORGOTTEN_MILLISECONDS = 15000; // a process that has not answered for so long gives way

// --- Tabs ---

const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab, focus = false) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    byId(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}

for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    choose(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length], true);
  });
}
const named = tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash);
if (named) choose(named);

// --- What is happening ---

// Behind one port there can be several processes, each of which knows its own figures alone.
const processes = new Map(); // name to { state, answeredAt }
let shown = null;

const charts = new Charts(byId("charts"));
const support = new Support();
const slots = new Slots();

async function poll() {
  try {
    const response = await fetch("console/state", { signal: AbortSignal.timeout(PATIENCE_MILLISECONDS) });
    if (response.status === 401) throw new Error("The operator's token is missing or wrong: reload this page");
    if (!response.ok) throw new Error(`The service answers with HTTP ${response.status}`);
    take(await response.json());
  } catch (error) {
    const last = processes.get(shown)?.state.now;
    const silent = last ? `The service has not answered since ${clockTime(last)}` : "The service does not answer";
    say(byId("store"), error.name === "Error" ? error.message : silent, "DOWN");
    document.documentElement.classList.add("stale");
  }
  setTimeout(poll, POLL_MILLISECONDS);
}

function take(state) {
  processes.set(state.process, { state, answeredAt: Date.now() });
  for (const [name, { answeredAt }] of processes) {
    if (Date.now() - answeredAt < FORGOTTEN_MILLISECONDS) continue;
    if (name === shown) shown = state.process;
    if (Date.now() - answeredAt > 60 * FORGOTTEN_MILLISECONDS) processes.delete(name);
  }
  if (!processes.has(shown)) shown = state.process;
  support.service(state);
  slots.service(state);
  show(state);
}

function show(latest) {
  const { state } = processes.get(shown);
  // The database is the same for all: who answered last knows best.
  const since = latest.unreachable_since;
  say(
    byId("store"),
    latest.database === "UP" ? "Database reachable"
      : `Database unreachable since ${clockTime(since)} (${duration(Date.parse(latest.now) - Date.parse(since))})`,
    latest.database,
  );
  document.documentElement.classList.remove("stale");
  byId("as-of").textContent = `as of ${clockTime(state.now)}`;
  const began = Date.parse(state.started_at);
  const { interval_seconds: interval, window_seconds: span } = state.history;
  const from = Date.parse(state.now) - began < span * 1000 ? `Since the start at ${clockTime(began)}` : `Last ${span / 60} min`;
  byId("scope").textContent = `${from}, a value for every ${interval} s, of `
    + (state.scope === "directory" ? "all processes that share the metrics directory." : `this process only (${state.process}).`);
  charts.show(state);
  if (!state.enforce) {
    document.querySelector("[data-chart=refusals] .note").textContent =
      "would be refused; shadow mode (ENFORCE=0): nothing is";
  }
  showProblems(state);
  showProcesses();
  showAllProcesses(latest.processes);
  byId("about").textContent = `stream-service ${state.version} · limit ${state.limit} · lease ${state.lease_seconds} s · `
    + `since the start: ${whole.format(started(state))} started, ${whole.format(state.starts.refused ?? 0)} refused, `
    + `${whole.format(state.heartbeats.renewed ?? 0)} heartbeats renewed`;
}

const started = ({ starts }) => (starts.admitted ?? 0) + (starts.replacing ?? 0) + (starts.would_refuse ?? 0);

function showProcesses() {
  byId("process-choice").hidden = processes.size < 2;
  const select = byId("process");
  const names = [...processes.keys()];
  if (select.dataset.names === String(names) && select.value === shown) return;
  select.dataset.names = names;
  select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
  select.value = shown;
}

byId("process").addEventListener("change", (event) => {
  shown = event.target.value;
  show(processes.get(shown).state);
});

function clockWords(ahead) {
  if (ahead === null) return "clock not known";
  if (Math.abs(ahead) < 0.05) return "clock as the database's";
  return `clock ${Math.abs(ahead).toFixed(1)} s ${ahead < 0 ? "behind" : "ahead of"} the database's`;
}

function showAllProcesses(all) {
  byId("processes").replaceChildren(...all.map(({ name, started_at, settings, clock }) => {
    const other = Object.keys(settings).filter((key) => String(settings[key]) !== String(all[0].settings[key]));
    return element("li", {
      textContent: `${name} · version ${settings.version} · limit ${settings.STREAM_LIMIT} · since ${clockTime(started_at)} · `
        + clockWords(clock)
        + (other.length ? ` · not as the first: ${other.join(", ")}` : ""),
    });
  }));
}

const SEVERITIES = { fault: "Fault", "client error": "Client error", normal: "Normal" };

function showProblems({ problems }) {
  byId("no-problems").hidden = problems.length > 0;
  byId("no-problems").textContent = "None in the last hour.";
  byId("problems").replaceChildren(
    ...problems.map(({ severity, status, kind, method, route, last_minute, last_hour, last }) => {
      const item = element("li", { className: "problem" });
      item.dataset.severity = severity;
      const link = element("a", { href: `docs#urn:stream-service:problem:${kind}`, textContent: `${status} ${kind}` });
      const path = route === null ? "no such path" : `${method} ${route}`;
      item.append(
        element("span", { className: "severity", textContent: SEVERITIES[severity] }),
        link,
        element("span", { className: "route", textContent: path }),
        element("span", {
          className: "times",
          textContent: `last minute ${whole.format(last_minute)} · last hour ${whole.format(last_hour)} · last at ${clockTime(last)}`,
        }),
      );
      return item;
    }),
  );
}

poll();
