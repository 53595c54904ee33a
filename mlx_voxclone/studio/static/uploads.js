// Files: sent one after the other, with what became of each; without this script the form sends them all at once.
import { announce, csrf } from "/static/studio.js";

const place = document.getElementById("upload");
const said = place.dataset;
const find = (id) => document.getElementById(id);
const accepted = said.accepted.split(",");
const queue = [];
let working = false;
let before = 0; // tasks that were open when the list was made
let [done, failed] = [0, 0];

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
}

function line(text, kind, lang = "") {
  const told = document.createElement("p");
  told.className = kind;
  if (lang) told.lang = lang;
  told.textContent = text;
  find("received").append(told);
  told.scrollIntoView({ block: "nearest" });
}

/** Recordings of a folder come with texts and with files that nobody meant: only known kinds are sent. */
function add(files, all) {
  for (const { file, name } of files) {
    const last = name.split("/").pop();
    const known = accepted.includes(last.slice(last.lastIndexOf(".")).toLowerCase());
    if (last.startsWith(".") || (!all && !known)) continue;
    queue.push({ file, name });
  }
  queue.sort((a, b) => Number(isSound(a.name)) - Number(isSound(b.name))); // texts first: they wait for their recordings
  if (!working) work();
}

function isSound(name) {
  return !/\.(txt|csv|tsv|psv|list|lst|jsonl)$/i.test(name);
}

async function work() {
  working = true;
  while (queue.length) {
    const { file, name } = queue.shift();
    find("sending-what").textContent = filled(said.uploading, { name });
    try {
      const answer = await post(file, name);
      const content = new DOMParser().parseFromString(answer.text, "text/html");
      if (answer.status === 200) done += 1;
      else failed += 1;
      for (const told of content.querySelectorAll("p")) {
        const kind = told.lang ? "muted" : answer.status === 200 ? "good" : "mistake"; // a program's own line
        line(told.textContent.trim().slice(0, 500), kind, told.lang);
      }
    } catch {
      failed += 1;
      line(filled(said.noAnswer, { name }), "mistake");
    }
  }
  working = false;
  const summary = filled(said.uploaded, { count: done, failed });
  find("sending-what").textContent = summary;
  announce(summary);
  await refresh();
}

/** XMLHttpRequest: it tells how much has been sent. */
function post(file, name) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/voices/${said.voice}/record/files/one?name=${encodeURIComponent(name.toWellFormed?.() ?? name)}`);
    request.setRequestHeader("x-csrf", csrf());
    request.setRequestHeader("content-type", "application/octet-stream");
    request.setRequestHeader("hx-request", "true");
    request.upload.onprogress = (event) => {
      find("sending-progress").max = event.total || 1;
      find("sending-progress").value = event.loaded;
    };
    request.onload = () => resolve({ status: request.status, text: request.responseText });
    request.onerror = reject;
    request.send(file);
  });
}

/** What is on the page now, without what is being typed: that waits until the field is left. */
async function refresh() {
  const typing = document.activeElement?.closest("#brought textarea");
  if (typing) await new Promise((left) => typing.addEventListener("blur", () => setTimeout(left, 500), { once: true }));
  const answer = await fetch(location.pathname + location.search);
  if (!answer.ok) return;
  const content = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["progress", "brought"]) {
    const part = content.getElementById(id);
    part.removeAttribute("hx-swap-oob");
    find(id).replaceWith(document.adoptNode(part));
    window.htmx?.process(find(id));
  }
  before = open();
}

for (const id of ["files", "folder"]) {
  find(id).addEventListener("change", (event) => {
    const files = [...event.target.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
    event.target.value = "";
    add(files, id === "files");
  });
}

// Dropped: files, and folders with all that is in them

const drop = find("drop");
drop.hidden = false;
for (const name of ["dragover", "dragenter"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget ?? drop.classList.remove("over"));
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = (await Promise.all(entries.map(walk))).flat();
  add(found, entries.every((entry) => entry.isFile));
});

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(walk))).flat();
    found.push(...some);
  }
}

// A task that has ended has changed the list

const open = () => document.querySelectorAll("#work .task[data-state=waiting], #work .task[data-state=running]").length;
before = open();
document.body.addEventListener("htmx:afterSettle", async () => {
  const now = open();
  if (now < before) await refresh();
  else before = now;
});

window.addEventListener("beforeunload", (event) => {
  if (working) event.preventDefault();
});
