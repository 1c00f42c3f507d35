// Numbers and times as people read them. A missing number is a dash, never a zero.

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hour12: false });
const minute = new Intl.DateTimeFormat(undefined, { timeStyle: "short", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

export const count = (n) => (n == null ? NONE : whole.format(n));
export const compact = (n) => (n == null ? NONE : n < 10_000 ? whole.format(n) : short.format(n));
export const share = (basis) => (basis == null ? NONE : `${+(basis / 100).toFixed(2)} %`);

// A reward with as many decimals as tell `width` (of an interval, of an axis) apart.
export function value(x, width = 0.01) {
  if (x == null) return NONE;
  const decimals = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(Math.max(width, 1e-6)))));
  return x.toFixed(Math.abs(x) >= 1000 ? 0 : decimals).replace("-", "−");
}

export function change(x) {
  if (x == null) return "∞";
  const percent = (100 * x).toFixed(Math.abs(x) < 1 ? 1 : 0).replace("-", "−");
  return `${x > 0 ? "+" : ""}${percent} %`;
}

// Ends of a relative change; without one it is unbounded on that side.
export function lift({ estimate, interval: [low, high] }) {
  if (estimate == null) return "not known yet";
  return `${change(estimate)} [${low == null ? "−∞" : change(low)}, ${change(high)}]`;
}

export const part = (x) => (x == null ? NONE : `${+(100 * x).toPrecision(3)} %`);

// An e-value: three digits, or its order of magnitude where that says it all.
export function evidence(x) {
  if (x == null) return NONE;
  if (x >= 1e6) return "> 10⁶";
  if (x < 0.001) return "< 0.001";
  return x >= 1000 ? whole.format(x) : String(+x.toPrecision(3));
}

export const time = (s) => clock.format(s * 1000);
export const hour = (s) => minute.format(s * 1000);

export function stamp(s) {
  const at = new Date(s * 1000);
  return at.toDateString() === new Date().toDateString() ? time(s) : `${day.format(at)}, ${time(s)}`;
}

export const words = (name) => name.replaceAll("_", " ");

export function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}
