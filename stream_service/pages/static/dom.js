// What the parts of the console share: elements, and figures in words.
export const byId = (id) => document.getElementById(id);
export const element = (name, properties) => Object.assign(document.createElement(name), properties);

export const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const decimals = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

// A time of day; with its date, if that is not today.
export function clockTime(moment) {
  const time = new Date(moment);
  return (time.toDateString() === new Date().toDateString() ? clock : day).format(time);
}

export function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function say(place, text, is) {
  if (place.textContent !== text) place.textContent = text;
  place.dataset.is = is;
}

// Asks the API as the account's gateway would. The account is in a header, and nowhere else.
export async function ask(account, method, path, body, more) {
  const headers = { "Session-Id": account, ...more };
  if (body) headers["Content-Type"] = "application/json";
  const began = performance.now();
  try {
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    const answer = await response.json().catch(() => ({}));
    const took = `${method} /${path} → ${response.status} in ${decimals.format(performance.now() - began)} ms`;
    return { ok: response.ok, status: response.status, answer, took };
  } catch {
    return { ok: false, status: 0, answer: { detail: "Is it running?" }, took: "The service does not answer" };
  }
}
