// The heatmap: parameters down, steps across, one colour for how large the gradient was.
import * as data from "./data.js";
import { plain, pooled, shortened, written } from "./rows.js";
import { SEQUENTIAL, axis, color, config, diverging, layout } from "./theme.js";
import { stepsShown, view } from "./view.js";

const LABEL_LENGTH = 36;
const CELL_PIXELS = 2; // at least, or a single step would be hard to see
const ROW_PIXELS = 22; // at most
const [LOWEST, TALLEST] = [170, 520];
const AROUND = { r: 96, t: 78, b: 50 };

const TITLES = {
  before: "Gradient norm before clipping",
  after: "Gradient norm after clipping",
  removed: "What clipping removed",
};

// What is on the screen; set before Plotly draws it, for it may ask while it draws.
let drawn = null;

// A revision of its own for each drawing: ranges are those of the cells drawn, never the
// ones a hand left behind.
let draws = 0;

// Draws unless something newer is being drawn. The numbers do not wait for Plotly.
export async function draw(panel, { source, summary }, groups, { plotly, isNewest }) {
  const { start, stop } = stepsShown(summary);
  const first = view.first < groups.length ? view.first ?? 0 : 0;
  const zoomed = groups.slice(first, Math.max(first, view.last ?? groups.length) + 1);
  const height = Math.max(LOWEST, Math.min(TALLEST, zoomed.length * ROW_PIXELS));
  const rows = pooled(zoomed, height / CELL_PIXELS);
  const labels = rows.map((row) => shortened(row.label, LABEL_LENGTH));
  const left = 24 + 6.6 * Math.max(...labels.map((label) => label.length));
  const bins = Math.max(50, Math.floor((panel.clientWidth - left - AROUND.r) / CELL_PIXELS));
  const where = { start, stop, bins, rows: written(rows), moment: view.moment, scale: view.scale };
  const heat = await data.heat(source, where, rows.length);
  await plotly;
  if (!isNewest()) return;
  const look = layout(TITLES[view.moment], subtitle(source, rows, heat, where), {
    height: height + AROUND.t + AROUND.b,
    margin: { l: left, ...AROUND },
    xaxis: axis("optimizer step", { range: [start - 0.5, stop + 0.5], showgrid: false, uirevision: ++draws }),
    yaxis: rowAxis(labels, height),
    annotations: marks(rows, summary),
  });
  drawn = { rows, where, heat, first, share: zoomed.length / rows.length };
  await Plotly.react(panel, traces(heat, stop), look, { ...config("heatmap"), doubleClick: false });
}

export function cellAt(point) {
  // Plotly may still point at where a row was before the last zoom.
  const row = Math.min(drawn.rows.length - 1, Math.max(0, Math.round(point.y)));
  const { steps } = drawn.heat;
  const after = steps.findIndex((step) => step > point.x + 0.5);
  const bin = after < 0 ? steps.length - 1 : Math.max(0, after - 1);
  const stop = bin + 1 < steps.length ? steps[bin + 1] - 1 : drawn.where.stop;
  return { row: drawn.rows[row], start: steps[bin], stop, decades: drawn.heat.decades[row][bin],
    nonfinite: drawn.heat.nonfinite[row][bin] === 1 };
}

// The rows between two heights of the chart, numbered as if all were shown.
export function rowsBetween(top, bottom) {
  const { rows, first, share } = drawn;
  const row = (y) => Math.min(rows.length - 1, Math.max(0, Math.round(y)));
  return {
    first: first + Math.floor(row(top) * share),
    last: first + Math.ceil((row(bottom) + 1) * share) - 1,
  };
}

export function described({ row, start, stop, decades, nonfinite }) {
  const steps = start === stop ? `step ${start}` : `steps ${start}–${stop}`;
  const times = (value) => Number((10 ** value).toPrecision(3));
  let what = "no gradient";
  if (nonfinite) what = "NaN or Inf";
  else if (decades === -100) what = "exactly zero";
  else if (!Number.isNaN(decades)) {
    if (view.moment === "removed") what = `made ${times(decades)} times smaller`;
    else if (view.scale === "relative") what = `${times(decades)} × its median`;
    else what = `norm ${times(decades)}`;
  }
  return `${row.label}, ${steps}: ${what}`;
}

function subtitle(source, rows, heat, where) {
  const norm = view.scale === "relative" ? "relative to each parameter's median" : "L2 norm";
  const scale = view.moment === "removed" ? "before ÷ after" : norm;
  const perBin = width(heat.steps, where.stop);
  const many = rows.some((row) => row.columns.length > 1);
  const pools = perBin > 1 || many ? "; a cell shows the largest in it" : "";
  return `${plain(source.key)}: ${scale}${pools}`;
}

function traces(heat, stop) {
  const place = placed(heat.steps, stop);
  const scale = colors(heat);
  const cells = {
    type: "heatmap", z: heat.decades, ...place, y0: 0, dy: 1, hoverinfo: "none",
    zmin: scale.low, zmax: scale.high, colorscale: scale.colorscale,
    colorbar: { thickness: 12, outlinewidth: 0, tickvals: scale.ticks, ticktext: scale.texts, xpad: 8 },
  };
  const bad = {
    type: "heatmap", z: heat.nonfinite, ...place, y0: 0, dy: 1, hoverinfo: "none",
    showscale: false, colorscale: [[0, color("nonfinite")], [1, color("nonfinite")]],
  };
  const legend = {
    type: "scatter", mode: "markers", x: [null], y: [null], name: "NaN or Inf",
    marker: { symbol: "square", size: 10, color: color("nonfinite") }, showlegend: true,
  };
  return heat.anyNonfinite ? [cells, bad, legend] : [cells];
}

const width = (steps, stop) => (steps.length > 1 ? steps[1] : stop + 1) - steps[0];

// Cells of one width are drawn as one picture, others one by one.
function placed(steps, stop) {
  const dx = width(steps, stop);
  const even = steps.every((step, i) => i === 0 || step - steps[i - 1] === dx);
  if (even) return { x0: steps[0] + (dx - 1) / 2, dx };
  return { x: [...steps, stop + 1].map((step) => step - 0.5) };
}

function colors({ low, high }) {
  if (view.moment !== "removed" && view.scale === "relative") {
    const reach = Math.min(3, Math.max(1, Math.ceil(Math.max(high, -low))));
    const ticks = [...Array(2 * reach + 1).keys()].map((i) => i - reach);
    const texts = ticks.map((t) => (t === 0 ? "median" : `${t < 0 ? "÷" : "×"} ${10 ** Math.abs(t)}`));
    return { low: -reach, high: reach, ticks, texts, colorscale: diverging() };
  }
  const bottom = Number.isFinite(low) ? Math.floor(Math.max(low, high - 16)) : 0;
  const top = Number.isFinite(high) ? Math.max(bottom + 1, Math.ceil(high)) : 1;
  const every = Math.ceil((top - bottom) / 8);
  const ticks = [];
  for (let tick = bottom; tick <= top; tick += every) ticks.push(tick);
  const removed = view.moment === "removed";
  const texts = ticks.map((t) => (removed ? `÷ 10<sup>${t}</sup>` : `10<sup>${t}</sup>`));
  return { low: bottom, high: top, ticks, texts, colorscale: SEQUENTIAL };
}

function rowAxis(labels, height) {
  const every = Math.ceil((15 * labels.length) / height);
  const tickvals = [...labels.keys()].filter((i) => i % every === 0);
  return axis("", {
    range: [labels.length - 0.5, -0.5],
    tickvals,
    ticktext: tickvals.map((i) => plain(labels[i])),
    showgrid: false,
    automargin: false,
    uirevision: draws,
  });
}

// Beside the cells, not on them: what is selected may be one pixel.
function marks(rows, summary) {
  const arrow = { showarrow: false, font: { size: 12, color: color("ink") } };
  const column = summary.names.indexOf(view.parameter);
  const row = rows.findIndex((shown) => shown.columns.includes(column));
  const step = { ...arrow, text: "▼", x: view.step, y: 1, yref: "paper", yanchor: "bottom" };
  const parameter = { ...arrow, text: "◀", y: row, x: 1, xref: "paper", xanchor: "left" };
  return row < 0 ? [step] : [step, parameter];
}
