// What all pages share: the language is chosen as soon as it is picked, what happens is announced, the focus stays.
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

// What was pressed and refused is told above the page, which stays as it is; what a page asks for by itself is not.

const refused = document.getElementById("refused");

function refuse({ detail }, sentence) {
  if (detail.requestConfig.verb !== "post") return;
  const content = new DOMParser().parseFromString(detail.xhr.responseText ?? "", "text/html");
  const notice = content.querySelector(".notice") ?? Object.assign(document.createElement("p"), { className: "notice" });
  if (!notice.textContent) notice.textContent = sentence;
  refused.replaceChildren(notice);
  refused.scrollIntoView({ block: "nearest" });
}

document.body.addEventListener("htmx:responseError", (event) => refuse(event, refused.dataset.unanswered));
document.body.addEventListener("htmx:sendError", (event) => refuse(event, refused.dataset.unanswered));
document.body.addEventListener("htmx:beforeRequest", ({ detail }) => {
  if (detail.requestConfig.verb === "post") refused.replaceChildren();
});

// An answer to a part of the page that has been replaced meanwhile has no place any more.

const drop = (event) => event.preventDefault();

document.body.addEventListener("htmx:beforeCleanupElement", ({ target }) => {
  if (target instanceof Element && target.matches("[hx-get]")) target.addEventListener("htmx:beforeOnLoad", drop);
});

// The focus. A mistake has it as soon as it is shown; what replaces a button that was pressed takes it over.

const WRONG = '[aria-invalid="true"]';
document.querySelector(`main ${WRONG}`)?.focus();

const pressed = new WeakMap(); // request -> ids of what its button is in, the innermost first

document.body.addEventListener("htmx:beforeRequest", ({ detail }) => {
  const { elt, xhr, target, requestConfig } = detail;
  if (requestConfig.verb !== "post" || !elt.contains(document.activeElement)) return;
  const places = [];
  for (let place = target.contains(elt) ? target : elt; place; place = place.parentElement) {
    if (place.id) places.push(place.id);
  }
  pressed.set(xhr, places);
});

document.body.addEventListener("htmx:afterSettle", ({ detail }) => {
  const places = pressed.get(detail.xhr);
  if (!places) return;
  pressed.delete(detail.xhr);
  const place = places.map((id) => document.getElementById(id)).find((found) => found);
  const lost = document.activeElement === null || document.activeElement === document.body;
  const next = place?.querySelector(WRONG) ?? (lost ? (place?.querySelector("[data-next], h1, h2") ?? place) : null);
  if (!next) return;
  if (next.tabIndex < 0) next.tabIndex = -1;
  next.focus();
});
