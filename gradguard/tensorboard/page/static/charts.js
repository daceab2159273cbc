// The line charts: totals, coefficient, one parameter, and all layers at one step.
import { COLORS, STATISTICS } from "./constants.js";
import { plain, shortened } from "./rows.js";
import { axis, color, config, layout, logAxis } from "./theme.js";

const HEIGHT = 340;
const MOST_NAMES = 24;

// Each chart gets `shown`: [{source, summary, ...numbers}], the run of the heatmap first.
// One run is drawn in a colour each for before and after, several in a colour per run.

export function totals(panel, shown, steps) {
  const traces = shown.flatMap((one, i) => [
    ...beforeAfter(one, styles(shown, i)), ...threshold(one, styles(shown, i), steps.stop), nonfinite(one),
  ]);
  return show(panel, "totals", traces, {
    title: "Total gradient norm",
    subtitle: `L2 norm over all parameters${dotted(shown, "before")}${pooling(shown)}`,
    steps,
    yaxis: logAxis("L2 norm", traces),
  });
}

export function coefficient(panel, shown, steps) {
  const traces = shown.flatMap((one, i) => {
    const style = styles(shown, i);
    return [
      line(one.fraction_steps, one.fraction, { ...style("clip fraction", "before"), shape: "hv" }),
      line(one.steps, one.coefficient, style("coefficient", "after")),
    ];
  });
  const share = (shown[0].summary.clip_fraction * 100).toFixed(1);
  return show(panel, "coefficient", traces, {
    title: "What the clip did",
    subtitle: `coefficient: total after ÷ before; ${share}% of all steps clipped${dotted(shown, "share")}`,
    steps,
    yaxis: axis("0 to 1", { range: [-0.03, 1.05] }),
  });
}

export function parameter(panel, shown, steps, name) {
  const traces = shown.flatMap((one, i) => {
    const style = styles(shown, i);
    const clipped = one.steps.filter((_, at) => one.clipped[at]);
    return [
      ...beforeAfter(one, style),
      ...threshold(one, style, steps.stop),
      marks(clipped, 0.02, "line-ns-open", style("clipped steps", "muted")),
      nonfinite(one),
    ];
  });
  return show(panel, "parameter", traces, {
    title: plain(shortened(name, Math.floor((panel.clientWidth - 170) / 8.5))),
    subtitle: `L2 norm of its gradient${dotted(shown, "before")}${pooling(shown)}`,
    steps,
    yaxis: logAxis("L2 norm", traces),
  });
}

export function profile(panel, shown, columns, names) {
  const places = new Map(columns.map((column, place) => [names[column], place]));
  const traces = shown.flatMap((one, i) => {
    const kept = [...one.summary.names.entries()].filter(([, name]) => places.has(name));
    kept.sort(([, a], [, b]) => places.get(a) - places.get(b));
    const norms = (moment) => kept.map(([column]) => one[moment][column]);
    const steps = kept.map(([, name]) => places.get(name));
    const picked = {
      steps,
      before: norms("before"),
      after: norms("after"),
      nonfinite: steps.filter((_, at) => !Number.isFinite(norms("before")[at])),
    };
    const text = kept.map(([, name]) => plain(name));
    const mode = columns.length > 60 ? "lines" : "lines+markers";
    const lines = beforeAfter(picked, styles(shown, i)).map((trace) =>
      ({ ...trace, mode, text, hovertemplate: "%{text}: %{y:.4g}" }));
    return [...lines, nonfinite(picked)];
  });
  return show(panel, "profile", traces, {
    title: `Norm by layer at step ${shown[0].step}`,
    subtitle: `L2 norm of each gradient, as ordered in the heatmap${dotted(shown, "before")}`,
    steps: { start: 0, stop: columns.length - 1 },
    xaxis: columns.length > MOST_NAMES ? axis("parameter, counted from the first") : axis("", {
      tickvals: [...columns.keys()],
      ticktext: columns.map((column) => plain(shortened(names[column], 22))),
      tickangle: -45,
    }),
    yaxis: logAxis("L2 norm", traces),
  });
}

export function epochs(panel, { epochs: x, names, values }, statistic, among) {
  const traces = names.map((name, i) => line(x, values[i], {
    name: plain(shortened(name, 24)),
    color: COLORS[i % COLORS.length],
    dash: i < COLORS.length ? "solid" : "dot",
  }));
  const few = names.length < among ? `; ${names.length} of ${among} parameters` : "";
  const { label, log } = STATISTICS[statistic];
  return show(panel, "epochs", traces, {
    title: "Weights and gradients by epoch",
    subtitle: `${label}${few}`,
    steps: { start: x[0], stop: x.at(-1) },
    xaxis: axis("end of epoch; -1 is before training"),
    yaxis: log ? logAxis("", traces) : axis("mean"),
  });
}

// How a run's lines look, by what they show.
function styles(shown, i) {
  if (shown.length === 1) return (name, tone) => ({ name, color: color(tone) });
  const run = plain(shown[i].source.key);
  const own = COLORS[i % COLORS.length];
  return (name, tone) => ({
    name: run, legendgroup: run, color: own, dash: tone === "before" ? "dot" : "solid", of: name,
  });
}

const dotted = (shown, what) => (shown.length > 1 ? `; dotted: ${what}` : "");

function beforeAfter(one, style) {
  return ["before", "after"].map((moment) => line(one.steps, one[moment], style(moment, moment)));
}

function line(x, y, { name, legendgroup, color: own, dash, shape, of }) {
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
function threshold({ summary: { clips, stop }, thresholds }, style, end) {
  const total = clips.map((clip) => (clip.per_parameter ? null : clip.threshold));
  const values = thresholds ?? total; // of one parameter, those for it alone
  if (values.every((value) => value === null)) return [];
  const steps = [...clips.map((clip) => clip.step), Math.max(stop, end)];
  const look = { ...style("threshold", "ink"), dash: "dash", shape: "hv" };
  return [line(steps, [...values, values.at(-1)], look)];
}

function nonfinite({ nonfinite: x }) {
  const look = { name: "NaN or Inf", legendgroup: "nonfinite", color: color("nonfinite") };
  return marks(x, 0.97, "x", look);
}

// Marks at a height of the chart rather than at a value.
function marks(x, height, symbol, { name, legendgroup, color: own, of }) {
  return {
    type: "scatter",
    mode: "markers",
    name,
    legendgroup,
    showlegend: x.length > 0,
    x,
    y: x.map(() => height),
    yaxis: "y2",
    marker: { symbol, size: 7, color: own, line: { width: 1, color: own } },
    hovertemplate: of ?? name,
  };
}

function pooling(shown) {
  const most = Math.max(...shown.map((one) => one.per_point));
  return most > 1 ? `; the largest of every ${most} steps` : "";
}

function show(panel, name, traces, { title, subtitle, steps, xaxis, yaxis }) {
  const pad = 0.5 + 0.01 * (steps.stop - steps.start);
  const named = new Set();
  for (const trace of traces) {
    if (!trace.legendgroup || trace.showlegend === false) continue;
    trace.showlegend = !named.has(trace.legendgroup);
    named.add(trace.legendgroup);
  }
  const look = layout(title, subtitle, {
    height: HEIGHT,
    hovermode: "x unified",
    xaxis: { ...(xaxis ?? axis("optimizer step")), range: [steps.start - pad, steps.stop + pad] },
    yaxis,
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
  });
  return Plotly.react(panel, traces, look, config(name));
}
