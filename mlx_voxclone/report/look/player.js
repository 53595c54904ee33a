/* The element voice-player holds a native player and a waveform, as the Python function `player` writes them. This makes
   it a button, a waveform that is also the slider, and a time. Without this script the native player stays. */
(() => {
  "use strict";
  if (customElements.get("voice-player")) return;

  const icon = (path) => `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${path}"/></svg>`;
  const ICONS = { play: icon("M8 5v14l11-7z"), pause: icon("M6 5h4v14H6zM14 5h4v14h-4z") };
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

  const made = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const clock = (seconds) => {
    const whole = Math.floor(seconds);
    const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    const two = (n) => String(n).padStart(2, "0");
    return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
  };

  class VoicePlayer extends HTMLElement {
    static observedAttributes = ["seconds"];
    #events = null;
    #frame = 0;

    connectedCallback() {
      if (this.querySelector(".player-body audio")) this.#begin();
      else document.addEventListener("DOMContentLoaded", () => this.isConnected && this.#begin(), { once: true });
    }

    disconnectedCallback() {
      this.#events?.abort();
      cancelAnimationFrame(this.#frame);
      this.audio?.pause();
    }

    attributeChangedCallback() {
      if (this.range) this.#show();
    }

    /* In seconds; what the file itself says is nearer than what was written beside it. */
    get duration() {
      const own = this.audio.duration;
      return Number.isFinite(own) && own > 0 ? own : Number(this.getAttribute("seconds")) || 0;
    }

    #begin() {
      this.#events?.abort();
      this.#events = new AbortController();
      const on = (target, names, act) => {
        for (const name of names.split(" ")) target.addEventListener(name, act, { signal: this.#events.signal });
      };
      const body = this.querySelector(".player-body");
      const audio = (this.audio = body.querySelector("audio"));
      const wave = body.querySelector(".wave:not(.played)");
      body.querySelector(".player-button")?.remove(); // of a page that came back from the browser's history
      body.querySelector(".player-wave")?.remove();
      this.label = audio.getAttribute("aria-label") || "";
      this.time = this.querySelector(".player-time");
      this.button = made("button", { type: "button", class: "player-button" });
      this.range = made("input", { type: "range", min: "0", step: "0.01", value: "0" });
      this.range.setAttribute("aria-label", `${this.dataset.seek}: ${this.label}`);
      this.layers = made("div", { class: "player-wave" });
      if (wave) {
        const played = wave.cloneNode(true);
        played.classList.add("played");
        this.layers.append(wave, played);
      }
      this.layers.append(this.range);
      body.append(this.button, this.layers);
      audio.controls = false;
      this.setAttribute("ready", "");

      on(this.button, "click", () => this.toggle());
      on(this.range, "input", () => this.seek(Number(this.range.value)));
      on(this.range, "keydown", (event) => this.#key(event));
      on(audio, "play playing pause ended seeked timeupdate loadedmetadata durationchange", () => this.#show());
      on(audio, "play", () => this.#run());
      on(audio, "error", () => this.#failed());
      this.#show();
    }

    toggle() {
      if (!this.audio.paused) return this.audio.pause();
      if (this.audio.error) this.audio.load(); // tried again
      this.audio.play().catch(() => {}); // a sound that fails is told by its event
    }

    seek(seconds) {
      if (this.audio.readyState === 0) this.audio.preload = "metadata";
      this.audio.currentTime = Math.max(0, Math.min(seconds, this.duration));
      this.#show();
    }

    #key(event) {
      const small = Math.max(0.1, Math.min(5, this.duration / 20));
      const by = { ArrowLeft: -small, ArrowDown: -small, ArrowRight: small, ArrowUp: small };
      by.PageDown = -4 * small;
      by.PageUp = 4 * small;
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === " ") this.toggle();
      else if (event.key === "Home") this.seek(0);
      else if (event.key === "End") this.seek(this.duration);
      else if (event.key in by) this.seek(this.audio.currentTime + by[event.key]);
      else return;
      event.preventDefault();
    }

    /* The shade follows at every frame; who wants less motion gets it a few times a second, by `timeupdate`. */
    #run() {
      cancelAnimationFrame(this.#frame);
      const step = () => {
        if (this.audio.paused || calm.matches) return;
        this.#show();
        this.#frame = requestAnimationFrame(step);
      };
      this.#frame = requestAnimationFrame(step);
    }

    #show() {
      const { audio, range, duration } = this;
      const at = Math.min(audio.currentTime, duration || Infinity);
      const act = audio.paused ? "play" : "pause";
      if (this.button.dataset.act !== act) {
        this.button.dataset.act = act;
        this.button.innerHTML = ICONS[act];
        this.button.setAttribute("aria-label", `${this.dataset[act]}: ${this.label}`);
      }
      range.disabled = !duration;
      range.max = String(duration || 1);
      range.value = String(at);
      this.layers.style.setProperty("--played", `${duration ? (100 * at) / duration : 0}%`);
      const total = Math.max(1, Math.round(duration)); // a second of its own for the shortest, reached by all
      const [now, all] = [clock(at > duration - 0.05 ? total : Math.min(at, total)), clock(total)];
      const spoken = this.dataset.position.replace("{time}", now).replace("{duration}", all);
      if (range.getAttribute("aria-valuetext") !== spoken) range.setAttribute("aria-valuetext", spoken);
      if (audio.error) return;
      const shown = duration ? `${now} / ${all}` : clock(at);
      if (this.time.textContent !== shown) this.time.textContent = shown;
      this.time.classList.remove("mistake");
    }

    #failed() {
      this.time.textContent = this.dataset.failed;
      this.time.classList.add("mistake");
      this.time.setAttribute("role", "status");
      this.#show();
    }
  }

  /* One sound at a time, native players included. */
  document.addEventListener(
    "play",
    (event) => {
      for (const other of document.querySelectorAll("audio, video")) if (other !== event.target) other.pause();
    },
    true,
  );

  /* On paper all is open that is not raw, also where the style sheet alone cannot do it. */
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open], .raw)")) part.dataset.printed = part.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const part of document.querySelectorAll("details[data-printed]")) {
      part.open = false;
      delete part.dataset.printed;
    }
  });

  customElements.define("voice-player", VoicePlayer);
})();
