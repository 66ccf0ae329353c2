// A page of a video company: it logs in, plays a film, and keeps to the limit by the player client. With
// "Ignore the limit" ticked it does not; what stops it then is the content server, which asks for a token.
import { play } from "/client.js";

const CONTENT = "test-pattern";
const FILM = `/film/${CONTENT}/film.m3u8`;
// A player that reads far ahead could go on for that long without its stream.
const AHEAD_SECONDS = 1;

const $ = (id) => document.getElementById(id);
const video = $("video");
// Each tab is a device of its own here, so that four tabs are four devices.
const device = (sessionStorage.device ??= `Tab ${100 + Math.floor(Math.random() * 900)}`);
const deviceId = (sessionStorage.deviceId ??= crypto.randomUUID());

let playing = null; // the client
let token = ""; // the latest playback token
let hls = null;

function say(text) {
  $("status").textContent = text;
}

function screen(state, text = "") {
  $("screen").dataset.state = state;
  $("curtain").textContent = text;
  $("play").disabled = $("play-uhd").disabled = state === "playing" || state === "starting";
  $("stop").disabled = state === "idle";
}

const obeys = () => !$("ignore").checked;

function show() {
  if (hls) return;
  hls = new Hls({
    maxBufferLength: AHEAD_SECONDS,
    maxMaxBufferLength: AHEAD_SECONDS,
    backBufferLength: 0,
    // Each segment is asked for with the token of the last start or heartbeat.
    xhrSetup: (request) => request.setRequestHeader("Playback-Token", token),
  });
  let refused = false;
  hls.on(Hls.Events.FRAG_LOADED, () => (refused = false));
  hls.on(Hls.Events.ERROR, (_, { fatal, response }) => {
    if (response?.code === 401) {
      refused = true;
      say("The content server refuses the film: this stream is over (401).");
    } else if (fatal && !refused) say("The film cannot be loaded.");
  });
  hls.loadSource(FILM);
  hls.attachMedia(video);
  video.play();
}

function hide(text, state = "idle") {
  $("refused").hidden = true;
  hls?.destroy();
  hls = null;
  screen(state, text);
}

// Runs dry: that is all a disobedient player notices.
video.addEventListener("waiting", () => {
  if (hls && $("screen").dataset.state === "playing") screen("dark", "No picture");
});
video.addEventListener("playing", () => screen("playing"));
video.addEventListener("ended", () => {
  video.currentTime = 0;
  video.play();
});

function start(replace) {
  hide("One moment", "starting");
  playing = play({
    device,
    deviceId,
    content: CONTENT,
    replace: replace ?? "same-device",
    onStarted: (stream) => held(stream, "This tab has a stream of its household."),
    onBeat: (stream) => held(stream),
    onResumed: (stream) => held(stream, "The stream was lost and has been started again."),
    // A player that sends nothing any more cannot say that it gets no answer.
    onOffline: () => obeys() && say("The service does not answer. The film goes on."),
    onOnline: () => obeys() && say("The service answers again."),
    onUnavailable: () => say("The service does not answer. Asking again."),
    onRefused: (refusal) => {
      hide("Too many streams");
      offer(refusal, start);
    },
    onEnded: (reason, { replaced_by }) => {
      if (!obeys()) return;
      const rejected = reason === "rejected"; // nothing started
      hide(rejected ? "Log in again" : replaced_by ? `Now playing on ${nameOf(replaced_by)}` : "Over");
      say(rejected ? "Nobody is logged in any more." : `This stream is over: ${reason}.`);
    },
  });
}

const nameOf = ({ device }) => device ?? "another device";

function held(stream, text) {
  token = stream.playback_token ?? "";
  if (text) say(text);
  show();
  if (!obeys()) disobey();
}

// No heartbeat any more, and no callback. It does not say stop either.
function disobey() {
  if (!playing || playing.state === "over") return;
  muteClient = true;
  say("This player sends no heartbeat and hears nothing any more.");
}

// The client offers no way to go silent, for good reason: here its requests are dropped instead.
let muteClient = false;
const fetchOfBrowser = window.fetch.bind(window);
window.fetch = (address, options) =>
  muteClient && String(address).includes("/heartbeat")
    ? new Promise(() => {})
    : fetchOfBrowser(address, options);

$("ignore").addEventListener("change", () => {
  muteClient = !obeys();
  if (!obeys()) disobey();
});

// A player that only knows an address: this start is all that the service hears of it, but for its fetches.
async function openElsewhere(replace) {
  $("opened").hidden = $("refused").hidden = true;
  await watchIn("hd");
  const answer = await fetch("/streams", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ device: "Another player", content: CONTENT, replace }),
  });
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 409) return offer(said, openElsewhere);
  if (!answer.ok) return say("The service does not start this film.");
  $("address").value = new URL(said.film, location);
  $("opened").hidden = false;
}

function offer({ rule, active, limit, streams }, take) {
  say(`${active} of ${limit} ${rule === "uhd" ? "streams in UHD" : "streams"} play already.`);
  $("playing").replaceChildren(
    ...streams.map((stream) => {
      const item = document.createElement("li");
      const since = new Date(stream.started_at).toLocaleTimeString();
      item.append(`${nameOf(stream)}: ${stream.content ?? "a film"}, since ${since}`);
      const button = document.createElement("button");
      button.textContent = "Take this place";
      button.onclick = () => take(stream.stream_id);
      item.append(button);
      return item;
    }),
  );
  $("refused").hidden = false;
}

// What is to be watched is the company's to say; here its login stands for that.
const watchIn = (quality) => fetchOfBrowser("/login", { method: "PUT", body: quality });
$("play").onclick = () => watchIn("hd").then(() => start());
$("play-uhd").onclick = () => watchIn("uhd").then(() => start());
$("not-now").onclick = () => ($("refused").hidden = true);
$("elsewhere").onclick = () => openElsewhere();
$("copy").onclick = async () => {
  $("address").select();
  await navigator.clipboard.writeText($("address").value);
  say("Copied.");
};
$("stop").onclick = async () => {
  hide("Press play");
  say("Stopping");
  await playing?.stop();
  playing = null;
  say("Nothing plays here.");
};

$("login").onsubmit = async (event) => {
  event.preventDefault();
  const answer = await fetch("/login", { method: "POST", body: $("name").value });
  if (answer.ok) await enter();
};
$("logout").onclick = async () => {
  await playing?.stop();
  await fetch("/login", { method: "DELETE" });
  location.reload();
};

async function enter() {
  const answer = await fetch("/login");
  const known = answer.ok ? (await answer.json()).household : null;
  $("login").hidden = known !== null;
  $("cinema").hidden = $("who").hidden = known === null;
  $("household").textContent = known ?? "";
  $("device").textContent = device;
  if (known !== null) screen("idle", "Press play");
}

await enter();
