// The lines and marks that charts are made of.
//
// Each chart gets `shown`: [{source, name, summary, ...numbers}], the run of the heatmap
// first. One run is drawn in a colour each for before and after, several in a colour per run.
import { plain } from "./names.js";
import { color, lineOf } from "./theme.js";

export const WIDE = 4; // pixels

// How a run's lines look, by what they show.
export function styles(shown, i) {
  if (shown.length === 1) return (name, tone) => ({ name, color: color(tone) });
  const run = plain(shown[i].name);
  const own = lineOf(i);
  return (name, tone) => ({
    ...own,
    name: run,
    legendgroup: run,
    of: `${run}, ${name}`,
    dash: tone === "before" ? "dot" : own.dash,
  });
}

// Where nothing clips, the one lies on the other: both are seen, for the lower is wider.
export function beforeAfter(one, style) {
  const before = line(one.steps, one.before, style("before", "before"));
  if (!before.legendgroup) before.line.width = WIDE;
  return [before, line(one.steps, one.after, style("after", "after"))];
}

export function line(x, y, { name, legendgroup, color: own, dash, shape, of }) {
  return {
    type: "scatter",
    mode: x.length === 1 ? "markers" : "lines",
    name,
    legendgroup,
    x,
    y: y.map((value) => (Number.isFinite(value) ? value : null)),
    line: { color: own, width: 1.5, dash, shape },
    hovertemplate: of ? `${of} %{y:.4g}` : "%{y:.4g}",
  };
}

// The policies of a run that was resumed may differ from step to step.
export function threshold({ summary: { clips, stop }, thresholds }, style, end) {
  const total = clips.map((clip) => (clip.per_parameter ? null : clip.threshold));
  const values = thresholds ?? total; // of one parameter, those for it alone
  if (values.every((value) => value === null)) return [];
  const steps = [...clips.map((clip) => clip.step), Math.max(stop, end)];
  const look = { ...style("threshold", "ink"), dash: "dash", shape: "hv" };
  return [line(steps, [...values, values.at(-1)], look)];
}

export function nonfinite({ nonfinite: x }) {
  return marks(x, 0.93, "x-thin", { name: "NaN or Inf", legendgroup: "nonfinite", color: color("nonfinite") });
}

// Marks at a height of the chart rather than at a value.
export function marks(x, height, symbol, { name, legendgroup, color: own, of }) {
  return {
    type: "scatter",
    mode: "markers",
    name,
    legendgroup,
    showlegend: x.length > 0,
    x,
    y: x.map(() => height),
    yaxis: "y2",
    marker: { symbol, size: 7, color: own, line: { width: 1.5, color: own } },
    hovertemplate: of ?? name,
  };
}

export const BY_HEIGHT = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };

// A group of lines has one entry in the legend.
export function withOneEntry(traces) {
  const named = new Set();
  for (const trace of traces) {
    if (!trace.legendgroup || trace.showlegend === false) continue;
    trace.showlegend = !named.has(trace.legendgroup);
    named.add(trace.legendgroup);
  }
  return traces;
}

// A legend in the right margin; runs have theirs in the list of runs.
export function legend(traces) {
  const entries = traces.filter(({ legendgroup, showlegend, x }) =>
    (!legendgroup || legendgroup === "nonfinite") && showlegend !== false && x.length);
  const texts = entries.map(({ name, line: { color: own, dash } = {}, marker }) =>
    `<span style="color:${own ?? marker.color}"><b>${GLYPHS[marker ? marker.symbol : dash] ?? "━"}</b></span> ${name}`);
  return {
    text: texts.join("<br>"), showarrow: false, x: 1, xref: "paper", xanchor: "left", xshift: 6,
    y: 1, yref: "paper", yanchor: "top", align: "left", font: { size: 11, color: color("ink") },
  };
}

const GLYPHS = { dash: "╍", dot: "┅", "x-thin": "✕", "line-ns-open": "|", square: "■" };

export function pooling(shown) {
  const most = Math.max(...shown.map((one) => one.per_point));
  return most > 1 ? `the largest of every ${most} steps` : "";
}

// Cells of one width are drawn as one picture, others one by one.
export function placed(steps, stop) {
  const dx = cellWidth(steps, stop);
  const even = steps.every((step, i) => i === 0 || step - steps[i - 1] === dx);
  if (even) return { x0: steps[0] + (dx - 1) / 2, dx };
  return { x: [...steps, stop + 1].map((step) => step - 0.5) };
}

export const cellWidth = (steps, stop) => (steps.length > 1 ? steps[1] : stop + 1) - steps[0];

// The selected step, through all charts over steps.
export const selectedStep = ({ step }) => ({
  type: "line", x0: step, x1: step, xref: "x", y0: 0, y1: 1, yref: "paper",
  line: { color: color("ink"), width: 1, dash: "dot" },
});
