// The page: one stream of reports in, one view per model out. It reads and never acts.
//
// The stream begins with the present report of every model, so a reconnect repairs everything but
// the plots' gap, which /history fills. What is shown is never older than the page admits.

import { h, text } from "./dom.js";
import * as format from "./format.js";
import { ModelView } from "./view.js";

const SILENT_MS = 40_000; // the server says something at least every 15 s
const ROUTER_MS = 15_000;
const RETRY_MS = 3_000;
const OPEN_AT_FIRST = 3;
const EXPLAIN_MS = 2_000; // an explanation is asked for at most this often, and per open model only

const page = Object.fromEntries(
  ["models", "empty", "nav", "live", "live-text", "banner", "held", "router"].map((id) => [id, document.getElementById(id)]));
const views = new Map();
const waiting = new Map();
const told = new Map();
const asked = new Map();
let source = null;
let heardAt = null;
let reportAt = null;
let isLost = false;

function view(model) {
  if (views.has(model)) return views.get(model);
  const isOpen = views.size < OPEN_AT_FIRST || location.hash === `#model-${model}`;
  const made = new ModelView(model, isOpen, (what) => get(path(model, what)));
  made.onopen = () => loadExplanation(model);
  views.set(model, made);
  page.models.append(made.element);
  page.empty.hidden = true;
  navigate();
  loadHistory(model);
  return made;
}

function navigate() {
  page.nav.hidden = views.size < 2;
  page.nav.replaceChildren(...[...views.keys()].map((model) => {
    const link = h("a", { href: `#model-${encodeURIComponent(model)}` }, model);
    link.addEventListener("click", () => { views.get(model).element.open = true; });
    return link;
  }));
}

async function get(path) {
  try {
    const response = await fetch(path, { headers: { accept: "application/json" } });
    return response.ok ? await response.json() : null;
  } catch {
    return null; // the stream tells that the connection is lost
  }
}

const path = (model, what) => `/v1/models/${encodeURIComponent(model)}/${what}`;

async function loadHistory(model) {
  const history = await get(path(model, "history"));
  if (history) views.get(model).setHistory(history);
}

// Decisions are asked for again when a report differs in what a decision is made of.
async function loadDecisions(report) {
  const { model, phase, verdict, cause, stage, step, epoch, champion, candidates } = report;
  const key = [phase, verdict, cause, stage, step, epoch, champion, ...candidates].join("|");
  if (told.get(model) === key) return;
  told.set(model, key);
  if (!(await views.get(model).decisions.load())) told.delete(model);
}

// The explanation follows the reports: at once, then not before EXPLAIN_MS have passed; the last
// report of a burst is always followed.
function loadExplanation(model) {
  const one = asked.get(model) ?? { timer: null, at: -EXPLAIN_MS };
  asked.set(model, one);
  if (one.timer != null) return;
  one.timer = setTimeout(async () => {
    one.timer = null;
    one.at = performance.now();
    const { element } = views.get(model);
    const answer = element.open && !document.hidden ? await get(path(model, "explain")) : null;
    if (answer) views.get(model).setExplanation(answer);
  }, Math.max(0, one.at + EXPLAIN_MS - performance.now()));
}

// Reports that come faster than the screen is drawn replace one another.
function take(report) {
  reportAt = Date.now();
  if (waiting.size === 0) requestAnimationFrame(draw);
  waiting.set(report.model, report);
}

function draw() {
  const reports = [...waiting.values()];
  waiting.clear();
  for (const report of reports) {
    view(report.model).update(report);
    loadDecisions(report);
    loadExplanation(report.model);
  }
  status();
}

function connect() {
  source?.close();
  source = new EventSource("/v1/stream");
  source.onopen = heard;
  source.addEventListener("heartbeat", heard);
  source.addEventListener("report", (event) => { heard(); take(JSON.parse(event.data)); });
  source.onerror = () => {
    lose();
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  };
}

function heard() {
  heardAt = Date.now();
  if (isLost) {
    isLost = false;
    told.clear();
    for (const model of views.keys()) loadHistory(model);
    loadRouter();
  }
  status();
}

function lose() {
  isLost = true;
  status();
}

function status() {
  const isStale = heardAt != null && Date.now() - heardAt > SILENT_MS;
  const state = isLost || isStale ? "lost" : heardAt == null ? "waiting" : "live";
  page.live.dataset.state = state;
  document.body.classList.toggle("is-stale", state === "lost");
  const age = reportAt == null ? "" : `, last report ${format.ago(Date.now() - reportAt)} ago`;
  text(page["live-text"], { live: "Live", lost: "Connection lost", waiting: "Connecting" }[state]);
  page.live.title = `${page["live-text"].textContent}${age}`;
  page.banner.hidden = state !== "lost";
  if (state === "lost") {
    const since = heardAt == null ? "" : ` What you see was so at ${format.time(heardAt / 1000)}.`;
    text(page.banner, `Connection to Understudy lost.${since} Trying again…`);
  }
}

async function loadRouter() {
  const answer = await get("/v1/models");
  if (!answer) return;
  const { connected, nacks } = answer.router;
  const routers = connected == null ? "" : connected === true ? "Router connected"
    : +connected ? `${+connected} router${+connected === 1 ? "" : "s"} connected` : "No router connected";
  const refused = nacks ? ` · ${nacks} configuration${nacks === 1 ? "" : "s"} refused` : "";
  text(page.router, routers + refused);
  page.router.classList.toggle("differs", !connected || nacks > 0);
  const held = Object.entries(answer.held).map(([model, why]) => `${model} is held since the start: ${why}`);
  page.held.hidden = held.length === 0;
  text(page.held, held.join(" · "));
  if (answer.models.length === 0 && held.length === 0) {
    text(page.empty, "No models yet. Put a policy file into the policies folder and start again.");
  }
}

// A hidden tab draws nothing, so its plots have a hole when it is looked at again.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) views.forEach((_, model) => { loadHistory(model); loadExplanation(model); });
});

// A page that a browser keeps for its back button must not keep one of the few connections that it
// allows to a host.
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => { if (event.persisted) connect(); });

connect();
loadRouter();
setInterval(loadRouter, ROUTER_MS);
setInterval(() => {
  if (heardAt != null && Date.now() - heardAt > SILENT_MS) { heardAt = Date.now(); lose(); connect(); }
  status();
}, 1_000);
