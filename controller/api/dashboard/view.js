// One model on the page. Made once, then changed in place, so that an open section, a selection
// and the place on the page survive every report.

import { h, s, text } from "./dom.js";
import * as format from "./format.js";
import { Decisions } from "./decisions.js";
import { Rewards, Weights } from "./plot.js";
import { explain, table } from "./why.js";

const COLOURS = 8;
const POINTS = 720;
const BAR = { width: 200, height: 22 };

const COLUMNS = [
  ["arm", "Arm"], ["wanted", "Wanted"], ["force", "In force"], ["exposures", "Exposures"],
  ["rewards", "Rewards"], ["pending", "Pending"], ["errors", "Errors"], ["mean", "Mean reward"],
  ["bar", "Interval"],
];

const WHY = () => h("h3", {}, "Why ", h("small", {}, "evidence on its way to the threshold; equal steps of a bar are equal proof"));

export class ModelView {
  // `ask` gives a document of the API below the model, null where it could not be had.
  constructor(model, isOpen, ask) {
    this.model = model;
    this.ask = ask;
    this.arms = [];
    this.history = { time: [], arms: {} };
    this.rows = new Map();
    this.#build(isOpen);
  }

  #build(isOpen) {
    const heading = `h-${this.model}`;
    this.phase = h("span", { class: "phase" });
    this.stage = h("span", { class: "stage" });
    this.reason = h("p", { class: "reason" });
    this.alert = h("p", { class: "alert", role: "status" });
    this.facts = h("p", { class: "facts" });
    this.split = h("div", { class: "split", role: "img" });
    this.body = h("tbody", { role: "rowgroup" });
    this.weights = new Weights("Traffic", "Share of the traffic per arm");
    this.rewards = new Rewards("Reward", "Mean reward per arm with its interval");
    this.why = h("div", { class: "why" });
    this.segments = h("div", { class: "segments" });
    this.decisions = new Decisions(this.ask, this.colour);
    this.rejected = h("dl", { class: "rejected" });
    this.section = h("section", { class: "content", "aria-labelledby": heading },
      this.facts, this.split, this.#table(), this.segments, this.why,
      h("div", { class: "plots" }, this.weights.element, this.rewards.element),
      h("div", { class: "notes" },
        this.decisions.element,
        h("div", {}, h("h3", {}, "Events not used"), this.rejected)));
    this.element = h("details", { class: "model", id: `model-${this.model}`, open: isOpen },
      h("summary", {}, h("div", { class: "title" }, h("h2", { id: heading }, this.model), this.phase, this.stage), this.reason, this.alert),
      this.section);
    this.element.addEventListener("toggle", () => { this.#plot(); this.onopen?.(); });
  }

  #table() {
    const cells = COLUMNS.map(([key, label]) =>
      h("th", { scope: "col", role: "columnheader", class: `c-${key}` }, label));
    this.scale = cells.at(-1);
    this.caption = h("caption", {}, `Arms of ${this.model}`);
    return h("table", { role: "table", class: "arms" }, this.caption,
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, cells)), this.body);
  }

  // An arm keeps its colour for as long as the page is open, whatever its role becomes.
  colour = (arm) => {
    if (!this.arms.includes(arm)) this.arms.push(arm);
    return this.arms.indexOf(arm) % COLOURS;
  };

  setHistory(history) {
    const later = this.report;
    this.history = { time: history.time, arms: history.arms };
    Object.keys(history.arms).forEach(this.colour);
    if (later) this.#append(later);
    this.#plot();
  }

  update(report) {
    this.report = report;
    report.arms.forEach((arm) => this.colour(arm.arm));
    this.#append(report);
    this.#head(report);
    this.#split(report);
    this.#rows(report);
    this.#rejected(report);
    this.#segments(report);
    this.#plot();
  }

  setExplanation(explained) {
    const parts = explained.conditions.length ? explain(explained, this.colour, { arms: false }) : [];
    this.why.replaceChildren(...(parts.length ? [WHY(), h("p", { class: "because" }, this.#because(explained)), this.#figures(explained), ...parts] : []));
  }

  // What a bandit and a cap add to the table of arms.
  #figures({ candidates }) {
    const best = candidates.filter((one) => one.p_best != null)
      .map((one) => `${one.arm} is best with ${format.part(one.p_best)}, expected loss ${format.part(one.loss)}`);
    const capped = candidates.filter((one) => one.capped > 0)
      .map((one) => `${format.part(one.capped)} of the outcomes of ${one.arm} and ${this.report.champion} capped`);
    return h("p", { class: "facts" }, [...best, ...capped].map((fact) => h("span", {}, fact)));
  }

  // What it waits for, in words; that is the sentence where no condition is the reason.
  #because({ verdict, reason, conditions, candidates }) {
    const verdictWord = h("b", { class: "verdict", "data-verdict": verdict }, format.words(verdict));
    const waits = conditions.filter((row) => row.holds);
    if (!waits.length) return [verdictWord, `: ${reason}`];
    const said = waits.map((row) => (candidates.length > 1 && row.then !== "hold" ? `${row.name} (${row.candidate})` : row.name));
    const words = waits.every((row) => row.then === "hold") ? ": held by " : ": yet to be proven: ";
    return [verdictWord, words, said.join(", ")];
  }

  #segments(report) {
    const names = Object.entries(report.segments ?? {});
    const arms = report.arms.map((arm) => arm.arm);
    const key = JSON.stringify([names, arms]);
    if (this.segmentsKey === key) return;
    this.segmentsKey = key;
    const rows = names.map(([name, weights]) => [name, this.#strip(arms, weights), ...arms.map((arm) => format.share(weights[arm] ?? 0))]);
    const shown = table("Split by segment", ["Segment", "Split", ...arms], rows, { isWide: true });
    this.segments.replaceChildren(...(shown ? [h("h3", {}, "Split by segment"), shown] : []));
  }

  #strip(arms, weights) {
    const parts = arms.filter((arm) => weights[arm] > 0).map((arm) => {
      const part = h("span", { class: `arm-${this.colour(arm)}` });
      part.style.flexGrow = weights[arm];
      return part;
    });
    return h("span", { class: "strip", "aria-hidden": "true" }, parts);
  }

  #append(report) {
    const { time, arms } = this.history;
    if (time.length && report.time <= time.at(-1)) return;
    time.push(report.time);
    const now = new Map(report.arms.map((arm) => [arm.arm, arm]));
    for (const name of new Set([...Object.keys(arms), ...now.keys()])) {
      arms[name] ??= Object.fromEntries(
        ["weight", "mean", "lower", "upper"].map((key) => [key, Array(time.length - 1).fill(null)]));
      const arm = now.get(name);
      arms[name].weight.push(arm?.weight_in_force ?? null);
      arms[name].mean.push(arm?.mean ?? null);
      arms[name].lower.push(arm?.interval?.[0] ?? null);
      arms[name].upper.push(arm?.interval?.[1] ?? null);
    }
    if (time.length > POINTS) this.#thin();
  }

  // Forgets every second of the older points; the last hundred stay as they are.
  #thin() {
    const keep = (_, i, all) => i >= all.length - 100 || i % 2 === 0;
    this.history.time = this.history.time.filter(keep);
    for (const track of Object.values(this.history.arms)) {
      for (const key of Object.keys(track)) track[key] = track[key].filter(keep);
    }
  }

  #head(report) {
    text(this.phase, format.words(report.phase));
    this.phase.dataset.phase = report.phase;
    text(this.stage, report.stage === "canary" ? `canary, step ${report.step + 1}` : report.stage);
    text(this.reason, report.reason);
    text(this.alert, report.worries.map((worry) => worry.sentence).join(" · "));
    const facts = [`champion ${report.champion}`];
    const { candidates } = report;
    if (candidates.length) facts.push(`candidate${candidates.length > 1 ? "s" : ""} ${candidates.join(", ")}`);
    if (report.queue.length) facts.push(`waiting: ${report.queue.join(", ")}`);
    for (const arm of candidates) {
      const lift = report.lift[arm];
      if (lift?.estimate != null) facts.push(`${arm} against ${report.champion}: ${format.lift(lift)}`);
    }
    facts.push(report.epoch === report.epoch_in_force
      ? `split ${report.epoch} in force`
      : `split ${report.epoch} wanted, ${report.epoch_in_force} in force`);
    this.facts.replaceChildren(...facts.map((fact) => h("span", {}, fact)));
  }

  #split(report) {
    const parts = report.arms.filter((arm) => arm.weight_in_force > 0);
    while (this.split.children.length > parts.length) this.split.lastChild.remove();
    parts.forEach((arm, i) => {
      const part = this.split.children[i] ?? this.split.appendChild(h("span"));
      part.className = `arm-${this.colour(arm.arm)}`;
      part.style.flexGrow = arm.weight_in_force;
      text(part, arm.weight_in_force >= 1200 ? `${arm.arm} ${format.share(arm.weight_in_force)}` : "");
    });
    const said = parts.map((arm) => `${arm.arm} ${format.share(arm.weight_in_force)}`);
    this.split.setAttribute("aria-label", `Traffic in force: ${said.join(", ")}`);
  }

  #rows(report) {
    const domain = commonScale(report.arms);
    const gone = new Set(this.rows.keys());
    report.arms.forEach((arm, i) => {
      gone.delete(arm.arm);
      const row = this.rows.get(arm.arm) ?? this.#row(arm.arm);
      if (this.body.children[i] !== row.element) this.body.insertBefore(row.element, this.body.children[i] ?? null);
      this.#fillRow(row, arm, domain, report);
    });
    for (const name of gone) {
      this.rows.get(name).element.remove();
      this.rows.delete(name);
    }
    const { earlier } = report;
    this.caption.textContent = `Arms of ${this.model}` + (earlier
      ? `, without ${format.count(earlier.arms)} earlier ones that had ${format.count(earlier.outcomes)} outcomes` : "");
  }

  #row(name) {
    const role = h("small");
    const head = h("th", { scope: "row", role: "rowheader", class: `c-arm arm-${this.colour(name)}` },
      h("i", { class: "swatch" }), h("span", { class: "name" }, name), role);
    const cells = Object.fromEntries(COLUMNS.slice(1).map(([key, label]) =>
      [key, h("td", { role: "cell", class: `c-${key}`, "data-label": label })]));
    const row = { element: h("tr", { role: "row" }, head, Object.values(cells)), cells, role };
    this.rows.set(name, row);
    return row;
  }

  #fillRow({ element, cells, role }, arm, domain, report) {
    const width = domain[1] - domain[0];
    text(role, arm.role);
    element.dataset.arm = arm.arm;
    text(cells.wanted, format.share(arm.weight));
    text(cells.force, format.share(arm.weight_in_force));
    cells.force.classList.toggle("differs", arm.weight !== arm.weight_in_force);
    for (const key of ["exposures", "rewards", "pending", "errors"]) text(cells[key], format.count(arm[key]));
    cells.errors.classList.toggle("differs", arm.errors > 0);
    text(cells.mean, format.value(arm.mean, width / 10));
    const champion = report.arms.find((other) => other.arm === report.champion);
    cells.bar.replaceChildren(bar(arm, domain, champion, this.colour(arm.arm)));
  }

  #rejected(report) {
    const used = Object.entries(report.rejected).filter(([, n]) => n > 0);
    const items = used.flatMap(([why, n]) => [h("dt", {}, format.words(why)), h("dd", {}, format.count(n))]);
    this.rejected.replaceChildren(...(items.length ? items : [h("dt", { class: "none" }, "none")]));
  }

  #plot() {
    if (!this.element.open) return;
    this.weights.show(this.history, this.colour);
    this.rewards.show(this.history, this.colour);
  }
}

// One scale for all arms of a model, so that their bars can be compared by eye.
function commonScale(arms) {
  const found = arms.flatMap((arm) => [arm.mean, ...(arm.interval ?? [])]).filter((v) => v != null);
  if (!found.length) return [0, 1];
  const [low, high] = [Math.min(...found), Math.max(...found)];
  const margin = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.1;
  return [low - margin, high + margin];
}

// The mean as a dot, its interval as a bar, the champion's mean as a line through all rows.
function bar(arm, [low, high], champion, colour) {
  const x = (v) => ((v - low) / (high - low)) * BAR.width;
  const middle = BAR.height / 2;
  const [from, to] = (arm.interval ?? []).map((v, i) => v ?? [low, high][i]);
  const width = high - low;
  const said = arm.mean == null ? "no outcomes yet"
    : `${format.value(arm.interval?.[0], width / 10)} to ${format.value(arm.interval?.[1], width / 10)}`;
  return h("span", { class: `interval arm-${colour}` },
    s("svg", { viewBox: `0 0 ${BAR.width} ${BAR.height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      s("line", { class: "track", x1: 0, x2: BAR.width, y1: middle, y2: middle }),
      champion?.mean == null ? null : s("line", { class: "reference", x1: x(champion.mean), x2: x(champion.mean), y1: 0, y2: BAR.height }),
      from == null ? null : s("rect", { x: x(from), width: Math.max(1.5, x(to) - x(from)), y: middle - 4, height: 8, rx: 2 }),
      arm.mean == null ? null : s("line", { class: "mean", x1: x(arm.mean), x2: x(arm.mean), y1: 3, y2: BAR.height - 3 })),
    h("small", {}, said));
}
