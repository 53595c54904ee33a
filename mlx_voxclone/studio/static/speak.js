// The step "Speak": speech is heard while its later sentences are still spoken.
//
// Each sentence is a WAV of its own, which is fetched when it is there, decoded, and put behind the one before it on the
// clock of an AudioContext: to the sample, without a gap, in Safari and in Chromium alike. (A WAV that grows while an
// <audio> element plays it is one that Safari refuses: it asks for ranges of a file whose length is known.)
import { announce } from "./studio.js";

const AHEAD = 20; // seconds of sound that wait behind what is heard
const PATIENCE = 400; // milliseconds between two questions for more

let context = null;

/** The clock of all sound; to be called where somebody has just pressed something, or it stays silent. */
function clock() {
  context ??= new AudioContext({ sampleRate: 24000 });
  return context;
}

class Stream extends EventTarget {
  constructor(speech) {
    super();
    this.speech = speech;
    this.next = 0; // sentences that have been fetched
    this.marks = []; // { from, to, number, text, node } on the context's clock
    this.ends = 0; // where the next sentence begins, on that clock
    this.wanted = this.complete = this.failed = this.#busy = false;
  }

  #busy;

  /** Seconds of sound that have been heard. */
  get played() {
    const now = context?.currentTime ?? 0;
    return this.marks.reduce((sum, one) => sum + Math.max(0, Math.min(now, one.to) - one.from), 0);
  }

  get current() {
    const now = context?.currentTime ?? 0;
    return this.marks.find((one) => one.from <= now && now < one.to);
  }

  get over() {
    return this.complete && (context?.currentTime ?? 0) >= this.ends;
  }

  async play() {
    for (const other of streams.values()) if (other !== this) other.halt();
    for (const sound of document.querySelectorAll("audio")) sound.pause();
    single.pause();
    this.wanted = true;
    this.failed = false;
    clock().resume();
    this.#changed();
    this.#fetch();
  }

  pause() {
    this.wanted = false;
    context?.suspend();
    this.#changed();
  }

  /** Give way to another sound: what has not been heard is fetched again, from the sentence that was cut off. */
  halt() {
    const now = context?.currentTime ?? 0;
    const left = this.marks.filter((one) => one.to > now);
    for (const one of left) one.node.stop();
    this.marks = this.marks.filter((one) => one.to <= now);
    this.next -= left.length;
    this.ends = 0;
    if (left.length) this.complete = false;
    this.wanted = false;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  async #fetch() {
    if (this.#busy) return;
    this.#busy = true;
    try {
      while (this.wanted && !this.complete) {
        if (this.ends - context.currentTime < AHEAD) await this.#more();
        await new Promise((done) => setTimeout(done, PATIENCE));
      }
    } catch {
      this.failed = true;
      this.wanted = false;
    } finally {
      this.#busy = false;
      this.#changed();
    }
  }

  async #more() {
    const answer = await fetch(`/speak/${this.speech}/stream?from=${this.next}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const { sentences, open } = await answer.json();
    for (const { number, text, src } of sentences) {
      const sound = await fetch(src);
      if (!sound.ok) throw new Error(sound.statusText);
      const buffer = await context.decodeAudioData(await sound.arrayBuffer());
      if (!this.wanted) return;
      const node = context.createBufferSource();
      node.buffer = buffer;
      node.connect(context.destination);
      const from = Math.max(this.ends, context.currentTime + 0.05);
      node.start(from);
      this.ends = from + buffer.duration;
      this.marks.push({ from, to: this.ends, number, text, node });
      this.next += 1;
      this.#changed();
    }
    this.complete = !open && !sentences.length;
  }
}

const streams = new Map(); // by the id of the speech: they outlive the parts of the page that are swapped
const single = new Audio(); // one sentence

class SpeechStream extends HTMLElement {
  #events = null;
  #timer = 0;

  connectedCallback() {
    const speech = this.dataset.speech;
    if (!streams.has(speech)) streams.set(speech, new Stream(speech));
    this.stream = streams.get(speech);
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.className = "primary";
    this.button.id = "speech-listen";
    this.line = document.createElement("p");
    this.line.className = "muted";
    this.replaceChildren(this.button, this.line);
    this.#events = new AbortController();
    const { signal } = this.#events;
    this.button.addEventListener("click", () => (this.stream.wanted ? this.stream.pause() : this.stream.play()), { signal });
    this.stream.addEventListener("change", () => this.#show(), { signal });
    this.#timer = setInterval(() => this.#show(), 250);
    if (this.hasAttribute("data-begin")) {
      this.removeAttribute("data-begin");
      this.stream.play();
    }
    this.#show();
  }

  disconnectedCallback() {
    this.#events?.abort();
    clearInterval(this.#timer);
  }

  /** Seconds that have been heard, and whether sound is to be heard now. */
  get currentTime() {
    return this.stream.played;
  }

  get paused() {
    return !this.stream.wanted;
  }

  #show() {
    const { stream } = this;
    if (stream.wanted && stream.over) stream.wanted = false;
    const begun = stream.marks.length > 0 && !stream.over;
    this.toggleAttribute("data-active", stream.wanted || begun);
    const act = stream.wanted ? this.dataset.pause : this.dataset.listen;
    if (this.button.textContent !== act) this.button.textContent = act;
    const now = stream.current;
    const line = stream.failed ? this.dataset.failed : now ? `${now.number}. ${now.text}` : stream.wanted ? this.dataset.waiting : "";
    if (this.line.textContent !== line) this.line.textContent = line;
    this.line.classList.toggle("mistake", stream.failed);
    for (const row of document.querySelectorAll("#sentences > .sentence")) {
      row.classList.toggle("spoken-now", stream.wanted && now !== undefined && row.value === now.number);
    }
  }
}

customElements.define("speech-stream", SpeechStream);

// A player that begins ends the stream, and the other way round.
document.addEventListener(
  "play",
  () => {
    for (const stream of streams.values()) stream.halt();
    single.pause();
  },
  true,
);

document.addEventListener("submit", (event) => {
  const { confirm: question } = event.target.dataset;
  if (question && !window.confirm(question)) {
    event.preventDefault();
    return;
  }
  // What is spoken now is heard as soon as it comes; only now may sound be allowed.
  if (event.target.id === "speak-form" || event.target.action.endsWith("/repeat")) clock().resume();
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-hear]");
  if (link) {
    event.preventDefault();
    const again = single.src === link.href && !single.paused;
    for (const stream of streams.values()) stream.halt();
    for (const sound of document.querySelectorAll("audio")) sound.pause();
    single.pause();
    if (again) return;
    single.src = link.href;
    single.play().catch(() => {});
  }
  if (event.target.closest("[data-random]")) {
    document.getElementById("speak-seed").value = String(Math.floor(Math.random() * 1e6));
  }
});

function reveal() {
  for (const button of document.querySelectorAll("[data-random]")) button.hidden = false;
}

let told = document.getElementById("speech")?.dataset.state;
document.addEventListener("htmx:afterSettle", () => {
  reveal();
  const panel = document.getElementById("speech");
  if (!panel || panel.dataset.state === told) return;
  told = panel.dataset.state;
  announce(panel.querySelector(".speech-state > p")?.textContent ?? "");
});
reveal();
