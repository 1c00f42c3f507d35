// Why a model moves, or why it does not: an explanation of the API, of the present or of a decision.
//
// Each condition is a bar of its evidence against its threshold, both on a logarithmic scale: an
// e-value multiplies, so equal steps of the bar are equal amounts of proof. What a condition is for
// is said by the heading above it, not by colour alone.

import { h } from "./dom.js";
import * as format from "./format.js";

const PURPOSES = [
  ["promote", "Promotes", "when all are reached"],
  ["roll_back", "Rolls back", "when one is reached"],
  ["hold", "Holds", "when one is reached"],
];

// How far the evidence is on its way, 0 to 1, and the words for it.
function progress({ evidence, threshold, reached }) {
  const way = evidence > 0 ? Math.log(evidence) / Math.log(threshold) : 0;
  return reached ? 1 : Math.min(1, Math.max(0, way));
}

function ahead(row) {
  if (row.reached) return "reached";
  if (row.then !== "promote" || row.requests_left === undefined) return "";
  if (row.requests_left == null) return row.seen === false ? "unknown yet" : "not in sight";
  return `≈ ${format.compact(row.requests_left)} requests left`;
}

function condition(row) {
  const of = `${format.evidence(row.evidence)} of ${format.evidence(row.threshold)}`;
  const meter = h("span", {
    class: "meter", role: "meter", "aria-label": row.name, "aria-valuemin": 0, "aria-valuemax": 100,
    "aria-valuenow": Math.round(100 * progress(row)), "aria-valuetext": `evidence ${of}, ${ahead(row) || "not reached"}`,
  }, h("span"));
  meter.firstChild.style.width = `${(100 * progress(row)).toFixed(1)}%`;
  return h("li", { class: "condition", "data-then": row.then, "data-reached": Boolean(row.reached) },
    h("span", { class: "what" }, row.name, row.holds ? h("b", { class: "waits" }, "waits for this") : null),
    h("span", { class: "of" }, of),
    meter,
    ahead(row) ? h("span", { class: "left" }, ahead(row)) : null);
}

// The conditions of one purpose; of several candidates, those of each below its name.
function group([then, title, when], rows, named) {
  const mine = Map.groupBy(rows.filter((row) => row.then === then), (row) => row.candidate);
  if (!mine.size) return null;
  if (mine.size > 1) when = `a candidate, ${when}`;
  return h("div", { class: "purpose", "data-then": then },
    h("h4", {}, title, " ", h("small", {}, when)),
    [...mine].map(([candidate, its]) => [named(candidate), h("ul", {}, its.map(condition))]).flat());
}

function seen(guard) {
  if (guard.metric === "reward") {
    return [guard.detail, format.value(guard.candidate), format.value(guard.champion), `+${format.value(guard.max_increase)}`];
  }
  const more = `+${format.part(guard.max_increase)}`;
  if (guard.metric === "error_rate") {
    return [`errors ${guard.detail}`.trim(), format.part(guard.candidate), format.part(guard.champion), more];
  }
  const limit = guard.limit_ms == null ? "the limit" : `${format.value(guard.limit_ms, 1)} ms`;
  return [`latency ${guard.detail}`, `${format.part(guard.candidate)} over ${limit}`,
    `${format.part(guard.champion)} over its ${guard.detail}`, more];
}

// A small table; `isWide` ones scroll sideways by themselves where the screen is too narrow.
export function table(title, heads, rows, { isWide = false } = {}) {
  if (!rows.length) return null;
  const scrolls = isWide ? { tabindex: 0, role: "region", "aria-label": title } : {};
  return h("div", { class: isWide ? "scroll" : "fits", ...scrolls },
    h("table", { class: "small" },
      h("caption", {}, title),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map(([head, ...cells]) =>
        h("tr", {}, h("th", { scope: "row" }, head), cells.map((one) => h("td", {}, one)))))));
}

function figures(explained, swatch) {
  const arms = [explained.champion, ...explained.candidates].filter((arm) => arm != null);
  const hasBest = arms.some((arm) => arm.p_best != null);
  const heads = ["Arm", "Outcomes", "Mean", "Interval", "Lift", ...(hasBest ? ["Best with"] : [])];
  return table("Arms", heads, arms.map((arm) => {
    const ends = (arm.interval ?? [null, null]).map((end) => format.value(end, 0.01));
    const best = hasBest ? [arm.p_best == null ? "–" : format.part(arm.p_best)] : [];
    return [h("span", {}, swatch(arm.arm), arm.arm), format.count(arm.n), format.value(arm.mean),
      arm.interval ? ends.join(" to ") : "–", arm.lift ? format.lift(arm.lift) : "–", ...best];
  }), { isWide: true });
}

// The whole of an explanation. `colour` gives the number of an arm's colour.
export function explain(explained, colour, { arms = true } = {}) {
  const { conditions, candidates, guardrails } = explained;
  const several = candidates.length > 1;
  const swatch = (arm) => h("i", { class: `swatch arm-${colour(arm)}` });
  const named = (arm) => (!several || !candidates.some((one) => one.arm === arm) ? null
    : h("span", { class: "whose" }, swatch(arm), arm));
  const rows = guardrails.map((guard) => {
    const [name, ...cells] = seen(guard);
    return [h("span", {}, named(guard.arm), name), ...cells];
  });
  return [
    arms ? figures(explained, swatch) : null,
    h("div", { class: "purposes" }, PURPOSES.map((purpose) => group(purpose, conditions, named))),
    table("Guardrails", ["Guardrail", "Candidate", "Champion", "Allowed"], rows),
  ].filter((part) => part != null);
}
