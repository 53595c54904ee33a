// The microphone: level while it is open, a take from one press to the next, sent as a WAV of 24 bits. The next sentence
// is shown when the studio has the take on its disk; a take that it did not answer for stays here to be sent again.
import { announce, csrf } from "/static/studio.js";

const SHORTEST = 0.3; // seconds: a double click
const SILENT = -55; // dB of full scale, peaks: as quiet as this, nobody speaks
const [QUIET, LOUD, CLIPPED] = [-30, -3, -0.1]; // dB, peaks
const HELD = 1.2; // seconds that the word for a level looks back: between two words nobody speaks
const PARTS = ["damaged", "sentence", "result", "progress", "takes"];

const desk = document.getElementById("recorder");
const said = desk.dataset;
const find = (id) => document.getElementById(id);
const button = find("record");
const state = { context: null, stream: null, blocks: null, count: 0, unsent: null, sending: false, opening: false };

function say(key) {
  find("recorder-state").textContent = said[key];
}

function mistake(text) {
  find("take-mistake").textContent = text;
}

// The microphone

async function open() {
  if (state.context) return true;
  if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) {
    mistake(said.insecure);
    return false;
  }
  const wanted = find("device").value;
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  if (wanted) audio.deviceId = { exact: wanted };
  let stream = null;
  let context = null;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio });
    context = new AudioContext();
    await context.audioWorklet.addModule("/static/recorder-worklet.js");
    await context.resume();
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    await context?.close();
    const gone = ["NotFoundError", "OverconstrainedError", "DevicesNotFoundError"].includes(error.name);
    const refused = ["NotAllowedError", "SecurityError"].includes(error.name);
    mistake(gone ? said.noMicrophone : refused ? said.refused : said.busy);
    return false;
  }
  mistake("");
  const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
  tap.port.onmessage = (event) => hear(event.data);
  context.createMediaStreamSource(stream).connect(tap);
  stream.getAudioTracks()[0].addEventListener("ended", lost);
  Object.assign(state, { context, stream });
  find("test").disabled = true;
  say("ready");
  await list();
  return true;
}

async function close() {
  state.stream?.getTracks().forEach((track) => track.stop());
  await state.context?.close();
  Object.assign(state, { context: null, stream: null, blocks: null });
  find("test").disabled = false;
  find("level").value = -60;
}

async function lost() {
  const recording = state.blocks !== null;
  if (recording) await stop();
  await close();
  say("off");
  mistake(said.noMicrophone);
}

async function list() {
  const found = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "audioinput");
  const used = state.stream.getAudioTracks()[0].getSettings().deviceId;
  find("device").replaceChildren(
    ...found.map((device) => new Option(device.label || device.deviceId, device.deviceId, false, device.deviceId === used)),
  );
  find("devices").hidden = found.length < 2;
}

find("device").addEventListener("change", async () => {
  if (state.blocks) return;
  await close();
  await open();
});

// The level

let heard = []; // [seconds, peak in dB] of the last moments

function hear({ samples, peak, rms }) {
  const [peaks, level] = [peak, rms].map((value) => 20 * Math.log10(Math.max(value, 1e-6)));
  find("level").value = Math.max(-60, Math.min(0, level + 6));
  const now = performance.now() / 1000;
  heard = [...heard.filter(([at]) => now - at < HELD), [now, peaks]];
  const most = Math.max(...heard.map(([, peak]) => peak));
  const key =
    most >= CLIPPED ? "clipped" : most >= LOUD ? "loud" : most >= QUIET ? "fine" : most >= SILENT ? "quiet" : "silence";
  if (find("level-said").textContent !== said[key]) {
    find("level-said").textContent = said[key];
    find("level-said").className = key === "fine" ? "good" : key === "silence" ? "muted" : "warning";
  }
  if (!state.blocks) return;
  state.blocks.push(samples);
  state.count += samples.length;
  const seconds = state.count / state.context.sampleRate;
  find("elapsed").textContent = `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  if (seconds >= Number(said.longest) - 1) stop();
}

// Takes

async function start() {
  if (state.blocks || state.sending || state.opening) return;
  state.opening = true;
  const there = await open();
  state.opening = false;
  if (!there) return;
  mistake("");
  document.querySelectorAll("audio").forEach((sound) => sound.pause());
  Object.assign(state, { blocks: [], count: 0 });
  button.textContent = said.stop;
  button.setAttribute("aria-pressed", "true");
  say("recording");
}

async function stop() {
  if (!state.blocks) return;
  const { blocks, count } = state;
  const rate = state.context.sampleRate;
  state.blocks = null;
  button.textContent = said.start;
  button.setAttribute("aria-pressed", "false");
  if (count < SHORTEST * rate) {
    say("ready");
    mistake(said.tooShortPress);
    return;
  }
  await send({ slot: find("sentence").dataset.slot, sound: wav(blocks, count, rate) });
}

async function send(take) {
  Object.assign(state, { unsent: take, sending: true });
  find("send-again").hidden = true;
  button.disabled = true;
  say("sending");
  try {
    const address = `/voices/${said.voice}/record/takes?slot=${encodeURIComponent(take.slot)}`;
    const headers = { "x-csrf": csrf(), "content-type": "audio/wav", "hx-request": "true" };
    const answer = await fetch(address, { method: "POST", headers, body: take.sound });
    const text = await answer.text();
    const content = new DOMParser().parseFromString(text, "text/html");
    if (answer.ok) {
      state.unsent = null;
      show(content);
      say("saved");
      mistake("");
    } else if (answer.status === 422) {
      state.unsent = null; // the studio has said why it is no use
      say("ready");
      mistake(content.body.textContent.trim());
    } else if (answer.status === 507) {
      say("ready"); // the disk is full: the take stays here until there is room
      mistake(content.body.textContent.trim());
      find("send-again").hidden = false;
    } else {
      throw new Error(String(answer.status));
    }
  } catch {
    say("ready");
    mistake(said.unsent);
    find("send-again").hidden = false;
  }
  state.sending = false;
  button.disabled = state.unsent !== null;
  if (!button.disabled && document.activeElement === document.body) button.focus({ preventScroll: true });
}

function show(content) {
  for (const id of PARTS) {
    const part = content.getElementById(id);
    if (!part) continue;
    part.removeAttribute("hx-swap-oob");
    find(id).replaceWith(document.adoptNode(part));
    window.htmx?.process(find(id));
  }
  if (location.search) history.replaceState(null, "", location.pathname);
  const found = document.querySelector("[data-announce]");
  if (found) announce(`${found.textContent} ${document.querySelector(".prompt").textContent}`);
}

/** A mono WAV of 24 bits. */
function wav(blocks, count, rate) {
  const bytes = new DataView(new ArrayBuffer(44 + 3 * count));
  const text = (at, value) => [...value].forEach((letter, k) => bytes.setUint8(at + k, letter.charCodeAt(0)));
  text(0, "RIFF");
  bytes.setUint32(4, 36 + 3 * count, true);
  text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true);
  bytes.setUint16(22, 1, true);
  bytes.setUint32(24, rate, true);
  bytes.setUint32(28, 3 * rate, true);
  bytes.setUint16(32, 3, true);
  bytes.setUint16(34, 24, true);
  text(36, "data");
  bytes.setUint32(40, 3 * count, true);
  let at = 44;
  for (const block of blocks) {
    for (const sample of block) {
      const value = Math.max(-8388608, Math.min(8388607, Math.round(sample * 8388608)));
      bytes.setInt16(at, value & 0xffff, true);
      bytes.setInt8(at + 2, value >> 16);
      at += 3;
    }
  }
  return new Blob([bytes.buffer], { type: "audio/wav" });
}

// Buttons and keys

button.addEventListener("click", () => (state.blocks ? stop() : start()));
find("test").addEventListener("click", open);
find("send-again").addEventListener("click", () => state.unsent && send(state.unsent));

const keys = find("keys");
keys.checked = localStorage.getItem("studio-keys") !== "off";
keys.addEventListener("change", () => localStorage.setItem("studio-keys", keys.checked ? "on" : "off"));

document.addEventListener("keydown", (event) => {
  if (!keys.checked || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, summary, a, button:not(#record), audio, [contenteditable]")) return;
  const key = event.key.toLowerCase();
  if (key === "r" || (key === " " && event.target !== button)) {
    event.preventDefault();
    if (state.blocks) stop();
    else start();
  } else if (key === "s" && !state.blocks && !state.sending) {
    event.preventDefault();
    find("skip").click();
  }
});

window.addEventListener("beforeunload", (event) => {
  if (state.blocks || state.unsent) event.preventDefault();
});
window.addEventListener("pagehide", close);
if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) mistake(said.insecure);
