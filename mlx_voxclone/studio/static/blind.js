// The blind test by keyboard: A, B and X play from the start, 1 and 2 answer once X was heard.
import { announce } from "/static/studio.js";

const heard = new Set();

function sound(slot) {
  return document.querySelector(`#blind audio[data-slot="${slot}"]`);
}

document.addEventListener("play", (event) => heard.add(event.target.src), true);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest?.("input:not([type=hidden]), select, textarea")) return;
  const key = event.key.toLowerCase();
  const audio = "abx".includes(key) && key.length === 1 ? sound(key) : null;
  if (audio) {
    event.preventDefault();
    audio.currentTime = 0;
    audio.play();
    return;
  }
  const button = key === "1" || key === "2" ? document.querySelector(`#answer button[data-key="${key}"]`) : null;
  if (!button) return;
  event.preventDefault();
  if (heard.has(sound("x").src)) button.click();
  else announce(document.getElementById("answer").dataset.first);
});

// The next pair is where the one before was: whoever does not see it is told, and the keys go on working.
document.body.addEventListener("htmx:afterSettle", (event) => {
  if (event.detail.target?.id === "blind" || event.target.id === "blind") document.getElementById("pair")?.focus();
});
