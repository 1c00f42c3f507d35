// The two plots over time. Both are SVG, drawn in CSS pixels (so text never scales), redrawn whole:
// six hundred points of a few arms take a few milliseconds.

import { h, s, text } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 190;
const PAD = { left: 46, right: 10, top: 10, bottom: 22 };
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
let plots = 0;

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return { found, step };
}

function timeTicks(first, last, wanted) {
  const span = last - first;
  const step = TIME_STEPS.find((t) => span / t <= wanted) ?? 86400 * Math.ceil(span / wanted / 86400);
  const offset = new Date(first * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let t = Math.ceil((first - offset) / step) * step + offset; t <= last; t += step) found.push(t);
  return { found, label: step < 60 ? format.time : format.hour };
}

// A path through points; a null ends the line, and the next point begins another.
function line(points) {
  let path = "";
  let pen = "M";
  for (const point of points) {
    if (point == null) { pen = "M"; continue; }
    path += `${pen}${point[0].toFixed(1)},${point[1].toFixed(1)}`;
    pen = "L";
  }
  return path;
}

function area(upper, lower) {
  return upper.length < 2 ? "" : `${line(upper)}L${line(lower.toReversed()).slice(1)}Z`;
}

// Runs of neighbouring indices at which `isThere`, so that a band has holes where nothing is known.
function runs(length, isThere) {
  const found = [];
  for (let i = 0; i < length; i++) {
    if (!isThere(i)) continue;
    if (i > 0 && isThere(i - 1)) found.at(-1).push(i);
    else found.push([i]);
  }
  return found;
}

export class Plot {
  constructor(title, describe) {
    this.describe = describe;
    this.clip = `clip-${++plots}`;
    this.svg = s("svg", { class: "plot", role: "img", height: HEIGHT });
    this.legend = h("div", { class: "legend" });
    this.when = h("span", { class: "when" });
    this.element = h("figure", {}, h("figcaption", {}, h("h3", {}, title), this.when), this.svg, this.legend);
    this.hovered = null;
    this.svg.addEventListener("pointermove", (event) => this.#hover(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#hover(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  show(history, colours) {
    this.history = history;
    this.colours = colours;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth;
    const history = this.history;
    if (!history || width < 80) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    if (history.time.length < 2) {
      const waiting = s("text", { x: width / 2, y: HEIGHT / 2, class: "waiting" }, "Waiting for a second report");
      this.svg.replaceChildren(waiting);
      return;
    }
    this.#scales(width);
    this.cursor = s("line", { class: "cursor", y1: PAD.top, y2: HEIGHT - PAD.bottom, visibility: "hidden" });
    const box = { x: PAD.left, y: PAD.top, width: width - PAD.left - PAD.right, height: HEIGHT - PAD.top - PAD.bottom };
    this.svg.replaceChildren(
      s("clipPath", { id: this.clip }, s("rect", box)),
      this.#axes(width),
      s("g", { "clip-path": `url(#${this.clip})` }, this.marks()),
      this.cursor,
    );
    this.#readout();
  }

  #scales(width) {
    const { time } = this.history;
    const [first, last] = [time[0], time.at(-1)];
    const [low, high] = this.domain();
    const across = (width - PAD.left - PAD.right) / Math.max(last - first, 1e-9);
    const up = (HEIGHT - PAD.top - PAD.bottom) / (high - low);
    this.range = { low, high, first, last };
    this.x = (t) => PAD.left + (t - first) * across;
    this.y = (v) => HEIGHT - PAD.bottom - (v - low) * up;
    this.across = across;
  }

  #axes(width) {
    const { low, high, first, last } = this.range;
    const group = s("g", { class: "axes" });
    const vertical = ticks(low, high, 4);
    for (const v of vertical.found) {
      const y = this.y(v);
      group.append(
        s("line", { x1: PAD.left, x2: width - PAD.right, y1: y, y2: y }),
        s("text", { x: PAD.left - 7, y: y + 4, "text-anchor": "end" }, this.label(v, vertical.step)),
      );
    }
    const horizontal = timeTicks(first, last, Math.max(2, Math.floor(width / 95)));
    for (const t of horizontal.found) {
      const x = this.x(t);
      if (x < PAD.left + 18 || x > width - 28) continue;
      group.append(s("text", { x, y: HEIGHT - 5, "text-anchor": "middle" }, horizontal.label(t)));
    }
    return group;
  }

  #hover(x) {
    if (!this.x || !this.cursor) return;
    this.hovered = x == null ? null : this.#nearest(this.range.first + (x - PAD.left) / this.across);
    this.#readout();
  }

  #nearest(t) {
    const { time } = this.history;
    let [low, high] = [0, time.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (time[middle] <= t) low = middle; else high = middle;
    }
    return t - time[low] < time[high] - t ? low : high;
  }

  // The legend names each arm with its value: at the pointer, else now.
  #readout() {
    const { time, arms } = this.history;
    const at = this.hovered == null ? time.length - 1 : Math.min(this.hovered, time.length - 1);
    const x = this.x(time[at]);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.cursor.setAttribute("visibility", this.hovered == null ? "hidden" : "visible");
    text(this.when, this.hovered == null ? "now" : format.stamp(time[at]));
    const entries = Object.entries(arms).filter(([, track]) => track.weight[at] != null);
    const said = entries.map(([name, track]) => [name, this.say(track, at)]);
    this.legend.replaceChildren(
      ...said.map(([name, value]) =>
        h("span", { class: `arm-${this.colours(name)}` }, h("i", { class: "swatch" }), `${name} `, h("b", {}, value))),
    );
    this.svg.setAttribute("aria-label", `${this.describe}: ${said.map((pair) => pair.join(" ")).join(", ")}`);
  }
}

export class Weights extends Plot {
  domain() { return [0, 100]; }
  label(v) { return `${v} %`; }
  say(track, at) { return format.share(track.weight[at]); }

  marks() {
    const { time, arms } = this.history;
    const floor = time.map(() => 0);
    return Object.entries(arms).map(([name, track]) => {
      const lower = this.#steps(floor);
      track.weight.forEach((w, i) => { floor[i] += (w ?? 0) / 100; });
      const upper = this.#steps(floor);
      return s("path", { class: `area arm-${this.colours(name)}`, d: area(upper, lower) });
    });
  }

  // A split holds until the next one: steps, not slopes.
  #steps(values) {
    const { time } = this.history;
    return values.flatMap((v, i) => {
      const here = [this.x(time[i]), this.y(v)];
      return i === 0 ? [here] : [[here[0], this.y(values[i - 1])], here];
    });
  }
}

export class Rewards extends Plot {
  label(v, step) { return format.value(v, step * 10); }

  say(track, at) {
    const width = this.range.high - this.range.low;
    if (track.mean[at] == null) return "no outcomes yet";
    const ends = [track.lower[at], track.upper[at]].map((v) => format.value(v, width / 4));
    return `${format.value(track.mean[at], width / 4)} [${ends.join(", ")}]`;
  }

  // The scale is that of what is known well by now: an arm's first, wide intervals are cut off
  // instead of pressing everything else flat.
  domain() {
    const found = [];
    for (const { mean, lower, upper } of Object.values(this.history.arms)) {
      const widths = mean.map((m, i) => (m == null || lower[i] == null || upper[i] == null ? null : upper[i] - lower[i]));
      const latest = widths.findLast((w) => w != null);
      const limit = latest == null ? Infinity : 3 * latest;
      const isFirst = (i) => latest != null && (widths[i] == null || i < mean.length / 20);
      mean.forEach((m, i) => {
        if (m == null || widths[i] > limit || (isFirst(i) && mean.length > 40)) return;
        found.push(m, lower[i] ?? m, upper[i] ?? m);
      });
    }
    if (!found.length) return [0, 1];
    const [low, high] = [Math.min(...found), Math.max(...found)];
    const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.1;
    return [low - margin, high + margin];
  }

  marks() {
    const { time, arms } = this.history;
    const bands = [];
    const lines = [];
    for (const [name, { mean, lower, upper }] of Object.entries(arms)) {
      const colour = `arm-${this.colours(name)}`;
      const point = (values) => (i) => [this.x(time[i]), this.y(values[i])];
      for (const run of runs(time.length, (i) => lower[i] != null && upper[i] != null)) {
        bands.push(s("path", { class: `band ${colour}`, d: area(run.map(point(upper)), run.map(point(lower))) }));
      }
      const points = mean.map((m, i) => (m == null ? null : point(mean)(i)));
      lines.push(s("path", { class: `line ${colour}`, d: line(points) }));
    }
    return [...bands, ...lines];
  }
}
