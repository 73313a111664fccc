// What lives on our pages: facts of a run as they come, and parts that are read again when something has changed.
"use strict";

const REST_MS = 250; // between two readings of a page's parts
const MOST_EVENTS = 500; // rows that the table of events keeps

// --- parts -----------------------------------------------------------------------------------------------------------

// Somebody who types, or has opened something, is not disturbed.
function isInUse(part) {
  if (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, form button")) return true;
  if ([...part.querySelectorAll("textarea, input:not([type=hidden]):not([type=checkbox])")].some((field) => field.value !== field.defaultValue)) return true;
  return part.querySelector("details[open]") !== null;
}

const read = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part.innerHTML]));

async function readParts(address) {
  const answer = await fetch(address, { headers: { Accept: "text/html" }, credentials: "same-origin" });
  if (answer.redirected && new URL(answer.url).pathname === "/sign-in") { location.reload(); return; }
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const shown = document.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
    // Compared with what was read last: what is shown has been scaled and typed into since.
    if (shown === null || read.get(part.dataset.part) === part.innerHTML || isInUse(shown)) continue;
    read.set(part.dataset.part, part.innerHTML);
    const places = [...shown.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
    shown.replaceChildren(...part.childNodes);
    shown.querySelectorAll(".scroll").forEach((box, index) => {
      if (places[index]) [box.scrollLeft, box.scrollTop] = places[index];
    });
    if (part.dataset.part === "graph") fitGraph();
  }
}

class Again {
  // Reads the parts again soon, and never twice at once.
  constructor(address) { this.address = address; this.isReading = false; this.isWanted = false; }
  soon() {
    this.isWanted = true;
    if (!this.isReading) this.read();
  }
  async read() {
    this.isReading = true;
    while (this.isWanted) {
      this.isWanted = false;
      try { await readParts(this.address); } catch { /* The server is away: the next event or look tries again. */ }
      await new Promise((done) => setTimeout(done, REST_MS));
    }
    this.isReading = false;
  }
}

for (const part of document.querySelectorAll("[data-refresh]")) {
  const again = new Again(location.href);
  setInterval(() => { if (!document.hidden) again.soon(); }, Number(part.dataset.refresh));
}

// --- the graph ---------------------------------------------------------------------------------------------------------

const SMALLEST = 0.5; // of a graph that is to fit: smaller letters cannot be read
let zoom = "fit";

function fitGraph() {
  const box = document.querySelector(".graph"), picture = box?.querySelector("svg");
  if (!picture) return;
  const [width, height] = [picture.viewBox.baseVal.width, picture.viewBox.baseVal.height];
  const scale = zoom === "fit" ? Math.max(SMALLEST, Math.min(1, (box.clientWidth - 16) / width)) : zoom;
  picture.setAttribute("width", width * scale);
  picture.setAttribute("height", height * scale);
  document.querySelector(".zoom").hidden = false;
  return scale;
}

document.addEventListener("click", (event) => {
  const wanted = event.target.dataset?.zoom;
  if (wanted === undefined) return;
  const scale = fitGraph();
  zoom = wanted === "fit" ? "fit" : Math.max(0.1, Math.min(4, scale * Number(wanted)));
  fitGraph();
});
addEventListener("resize", fitGraph);
fitGraph();

// --- one run ---------------------------------------------------------------------------------------------------------

function show(event) {
  const table = document.getElementById("events");
  const told = JSON.parse(event.data);
  const row = table.insertRow();
  row.className = "new";
  const time = document.createElement("time");
  time.dateTime = told.at;
  time.textContent = told.at.slice(11, 23);
  row.insertCell().append(time);
  for (const text of [told.step ?? "", told.kind]) {
    const code = document.createElement("code");
    code.textContent = text;
    row.insertCell().append(code);
  }
  const what = row.insertCell();
  what.className = "wide";
  what.textContent = told.gist.slice(0, 300);
  while (table.rows.length > MOST_EVENTS) table.deleteRow(0);
  const box = document.getElementById("events-box");
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 80) box.scrollTop = box.scrollHeight;
}

const run = document.getElementById("run");
if (run !== null) {
  const box = document.getElementById("events-box");
  box.scrollTop = box.scrollHeight;
  if (run.dataset.ended === "no") {
    const again = new Again(`/runs/${run.dataset.run}/parts`);
    const source = new EventSource(`/runs/${run.dataset.run}/live?after=${run.dataset.position}`);
    const kinds = run.dataset.kinds.split(" ");
    for (const kind of kinds) source.addEventListener(kind, (event) => { show(event); again.soon(); });
    source.addEventListener("end", () => { source.close(); again.soon(); });
    // What a page says of time and of waits changes by itself.
    const looking = setInterval(() => {
      if (source.readyState === EventSource.CLOSED) clearInterval(looking);
      else if (!document.hidden) again.soon();
    }, 5000);
  }
}

// --- forms -----------------------------------------------------------------------------------------------------------

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
