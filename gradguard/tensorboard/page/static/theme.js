// How every chart looks, light and dark.
import { fullScreen } from "./full.js";

export const color = (name) =>
  getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();

// Runs, or parameters, side by side; dashes where the colours begin again.
const COLORS = 6;
export const lineOf = (i) => ({ color: color(`line-${i % COLORS}`), dash: i < COLORS ? "solid" : "dash" });

// Green is below the median, purple above; the middle is the background.
export const diverging = () => scale("far-below", "below", "middle", "above", "far-above");
export const sequential = () => scale("scale-0", "scale-1", "scale-2", "scale-3", "scale-4");
const scale = (...names) => names.map((name, i) => [i / (names.length - 1), color(name)]);

// All charts over steps have these margins, so that a step is at one place in all of them.
export const RIGHT = 104;

export function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8 },
    gridcolor: color("grid"),
    linecolor: color("grid"),
    zeroline: false,
    automargin: true,
    ...more,
  };
}

// Rare values far below the others run off the chart rather than flatten it.
export function logAxis(title, traces, most) {
  const values = positive(traces);
  if (!values.length) return axis(title, { type: "log", tickvals: [] });
  const low = Math.max(values[0], values[Math.floor(values.length / 10)] / 1000);
  const range = [Math.log10(low) - 0.15, Math.log10(values.at(-1)) + 0.15];
  return axis(title, { type: "log", range, ...logTicks(range, most) });
}

const positive = (traces) =>
  traces.flatMap(({ y, yaxis }) => (yaxis ? [] : y)).filter((value) => value > 0).sort((a, b) => a - b);

// Powers of ten; where fewer than two are in sight, their first digits.
function logTicks([low, high], most) {
  const between = (values) => values.filter((value) => value >= low && value <= high);
  const from = Math.floor(low);
  const decades = between(range(from, Math.ceil(high)));
  if (decades.length > 1) return ticks(thinned(decades, most), power);
  const digits = range(from, Math.ceil(high)).flatMap((ten) => [1, 1.5, 2, 3, 5, 7].map((d) => ten + Math.log10(d)));
  return ticks(thinned(between(digits), most), (value) => `${Number((10 ** value).toPrecision(2))}`);
}

const range = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);
const thinned = (values, most) => values.filter((_, i) => i % Math.ceil(values.length / most) === 0);
const ticks = (values, text) => ({ tickvals: values.map((value) => 10 ** value), ticktext: values.map(text) });
const power = (ten) => (Math.abs(ten) <= 3 ? `${Number((10 ** ten).toPrecision(1))}` : `10<sup>${ten}</sup>`);

export const font = () => ({ family: "Roboto, system-ui, sans-serif", size: 12, color: color("ink") });

export function layout(more) {
  return {
    font: font(),
    paper_bgcolor: color("panel"),
    plot_bgcolor: color("panel"),
    hoverlabel: { font: { size: 12 }, namelength: -1, bgcolor: color("panel"), bordercolor: color("grid") },
    uirevision: "keep",
    ...more,
  };
}

// With a title over it, for charts that are no strips.
export function titled(title, subtitle, more) {
  const text = { text: subtitle, font: { size: 12, color: color("muted") } };
  const at = { x: 0, xref: "container", xanchor: "left", y: 1, yref: "container", yanchor: "top" };
  return layout({
    title: { text: title, subtitle: text, ...at, pad: { t: 10, l: 12 }, font: { size: 14, color: color("ink") } },
    margin: { l: 60, r: 16, t: 56, b: 40 },
    ...more,
  });
}

export const config = (name) => ({
  displaylogo: false,
  responsive: true,
  doubleClick: false,
  showTips: false,
  modeBarButtons: [["toImage", fullScreen]],
  toImageButtonOptions: { format: "png", filename: `gradguard-${name}`, scale: 2 },
});
