// What all pages share: the language is chosen as soon as it is picked, and what happens is announced.
const language = document.querySelector("form.language");
if (language) {
  language.querySelector("select").addEventListener("change", () => language.requestSubmit());
}

/** Say a sentence to screen readers. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/** The token that every POST carries. */
export function csrf() {
  return document.querySelector('meta[name="csrf"]').content;
}
