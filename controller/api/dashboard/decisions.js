// The decisions of a model, newest first; each opens to its explanation, where it stands.

import { h, text } from "./dom.js";
import * as format from "./format.js";
import { explain } from "./why.js";

const FIRST = 8;
const MORE = 24;
let made = 0;

export class Decisions {
  constructor(ask, colour) {
    this.ask = ask;
    this.colour = colour;
    this.limit = FIRST;
    this.items = new Map();
    this.list = h("ol", { class: "decisions" });
    this.more = h("button", { type: "button", class: "more", hidden: true }, "Show earlier decisions");
    this.more.addEventListener("click", () => { this.limit += MORE; this.load(); });
    this.element = h("div", {}, h("h3", {}, "Decisions"), this.list, this.more);
  }

  // Whether the decisions could be had.
  async load() {
    const answer = await this.ask(`decisions?limit=${this.limit}`);
    if (answer) this.#show(answer.decisions);
    return answer != null;
  }

  // Items are kept, so that one that is open stays so when a new decision comes in above it.
  #show(decisions) {
    const items = decisions.map((decision) => {
      const known = this.items.get(decision.number) ?? this.#item(decision);
      this.items.set(decision.number, known);
      return known;
    });
    const shown = items.length ? items : [h("li", { class: "none" }, "none yet")];
    shown.forEach((item, i) => {
      if (this.list.children[i] !== item) this.list.insertBefore(item, this.list.children[i] ?? null);
    });
    while (this.list.children.length > shown.length) this.list.lastChild.remove();
    this.more.hidden = decisions.length < this.limit;
  }

  #item(decision) {
    const details = h("div", { class: "explained", id: `decision-${++made}`, hidden: true });
    const button = h("button", { type: "button", "aria-expanded": "false", "aria-controls": details.id },
      h("time", { datetime: new Date(decision.time * 1000).toISOString() }, format.stamp(decision.time)),
      h("span", { class: "verdict", "data-verdict": decision.verdict }, format.words(decision.verdict)),
      h("span", { class: "said" }, decision.reason, " ", h("small", {}, `#${decision.number}`)));
    button.addEventListener("click", () => {
      details.hidden = !details.hidden;
      button.setAttribute("aria-expanded", String(!details.hidden));
      if (!details.hidden && !details.dataset.known) this.#explain(decision, details);
    });
    return h("li", {}, button, details);
  }

  async #explain(decision, details) {
    text(details, "Loading…");
    const explained = await this.ask(`explain?decision=${decision.number}`);
    if (!explained) {
      text(details, "It could not be had; close it and open it again.");
      return;
    }
    details.dataset.known = "yes";
    const split = Object.entries(explained.weights).map(([arm, weight]) => `${arm} ${format.share(weight)}`);
    const stage = explained.stage === "canary" ? `canary, step ${explained.step + 1}` : explained.stage;
    const facts = [stage, `split ${explained.epoch}: ${split.join(", ")}`].filter(Boolean);
    details.replaceChildren(h("p", { class: "facts" }, facts.map((fact) => h("span", {}, fact))),
      ...(explained.candidates.length ? explain(explained, this.colour) : [h("p", { class: "none" }, "No evidence was asked for this decision.")]));
  }
}
