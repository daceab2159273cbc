// The heatmap: parameters down, steps across, one colour for how large the gradient was.
import * as data from "./data.js";
import { heightOf } from "./full.js";
import { fitted, plain, width } from "./names.js";
import { short } from "./numbers.js";
import { pooled, written } from "./rows.js";
import { cellWidth, placed, selectedStep } from "./series.js";
import { RIGHT, axis, color, config, diverging, layout, sequential } from "./theme.js";

const CELL_PIXELS = 2; // at least, or a single step would be hard to see
const ROW_PIXELS = 36; // at most
const LABEL_PIXELS = 12; // of height, at least
const [LEFT, WIDEST] = [96, 0.24]; // pixels; share of the window that names may take
const SHORTEST = 200;
const DEEPEST = 40; // decades of norms that colours tell apart
const AROUND = { t: 14, b: 40 };

// What is on the screen; set before Plotly draws it, for it may ask while it draws.
let drawn = null;

// A revision of its own for each drawing: ranges are those of the cells drawn, never the
// ones a hand left behind.
let draws = 0;

// What is drawn where, as far as it is known before the numbers are. `room` is the height
// that is left for it.
export function planned(panel, groups, look, room) {
  const first = look.first < groups.length ? look.first ?? 0 : 0;
  const zoomed = groups.slice(first, Math.max(first, look.last ?? groups.length) + 1);
  const most = Math.max(SHORTEST, heightOf(panel, room) - AROUND.t - AROUND.b);
  const height = panel.classList.contains("full") ? most : Math.min(most, zoomed.length * ROW_PIXELS);
  const rows = pooled(zoomed, height / CELL_PIXELS);
  const { prefix, texts } = fitted(rows.map(({ label }) => label), panel.clientWidth * WIDEST);
  const left = Math.max(LEFT, 20 + width(texts));
  return { first, share: zoomed.length / rows.length, rows, height, prefix, texts, left };
}

// Draws unless something newer is being drawn. The numbers do not wait for Plotly.
export async function draw(panel, { source, summary }, plan, look, { plotly, isNewest }) {
  const { rows, height, left } = plan;
  const { start, stop, moment, scale } = look;
  const bins = Math.max(50, Math.floor((panel.clientWidth - left - RIGHT) / CELL_PIXELS));
  const where = { start, stop, bins, rows: written(rows), moment, scale };
  const heat = await data.heat(source, where, rows.length);
  await plotly;
  if (!isNewest()) return;
  drawn = { ...plan, where, heat };
  const size = height + AROUND.t + AROUND.b;
  await Plotly.react(panel, traces(heat, where), layout({
    height: size,
    margin: { l: left, r: RIGHT, autoexpand: false, ...AROUND },
    xaxis: axis("optimizer step", {
      range: [start - 0.5, stop + 0.5], showgrid: false, automargin: false, uirevision: ++draws,
    }),
    yaxis: rowAxis(plan.texts, height),
    shapes: [selectedStep(look)],
    annotations: [...selection(rows, summary, look), ...(heat.anyNonfinite ? [key()] : [])],
  }), config("heatmap"));
}

// The cell under a point of the window, null beside the chart; a name stands for its row.
export function cellUnder(panel, { clientX, clientY }) {
  if (!drawn || !panel._fullLayout) return null;
  const { xaxis, yaxis } = panel._fullLayout;
  const box = panel.getBoundingClientRect();
  const [x, y] = [clientX - box.x - xaxis._offset, clientY - box.y - yaxis._offset];
  if (x > xaxis._length || y < 0 || y > yaxis._length) return null;
  return cellAt({ x: xaxis.p2l(Math.max(0, x)), y: yaxis.p2l(y), isName: x < 0 });
}

export function cellAt({ x, y, isName = false }) {
  // Plotly may still point at where a row was before the last zoom.
  const row = Math.min(drawn.rows.length - 1, Math.max(0, Math.round(y)));
  const { steps, decades, nonfinite } = drawn.heat;
  const after = steps.findIndex((step) => step > x + 0.5);
  const bin = after < 0 ? steps.length - 1 : Math.max(0, after - 1);
  const stop = bin + 1 < steps.length ? steps[bin + 1] - 1 : drawn.where.stop;
  return { row: drawn.rows[row], start: steps[bin], stop, isName, where: drawn.where,
    decades: decades[row][bin], nonfinite: nonfinite[row][bin] === 1, line: decades[row], bin };
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

// What a cell says, in words.
export function described({ decades, nonfinite, where }) {
  const times = (value) => short(10 ** value, 3);
  if (nonfinite) return "NaN or Inf";
  if (decades === -100) return "exactly zero";
  if (Number.isNaN(decades)) return "no gradient";
  if (where.moment === "removed") return `made ${times(decades)} times smaller`;
  if (where.scale === "relative") return `${times(decades)} × its median`;
  return `norm ${times(decades)}`;
}

// What holds for the whole heatmap, for the line over it.
export function caption({ prefix }, look) {
  const scale = look.moment === "removed" && "before ÷ after";
  const perBin = cellWidth(drawn.heat.steps, look.stop);
  const isPooled = perBin > 1 || drawn.rows.some((row) => row.columns.length > 1);
  return [scale, prefix && `in ${prefix.slice(0, -1)}`, isPooled && "largest in each cell"]
    .filter(Boolean).join("; ");
}

function traces(heat, where) {
  const place = placed(heat.steps, where.stop);
  const scale = colors(heat, where);
  const cells = {
    type: "heatmap", z: heat.decades, ...place, y0: 0, dy: 1, hoverinfo: "none",
    zmin: scale.low, zmax: scale.high, colorscale: scale.colorscale,
    colorbar: { thickness: 10, outlinewidth: 0, tickvals: scale.ticks, ticktext: scale.texts, x: 1.012,
      xpad: 0, ypad: 0, tickfont: { size: 11 } },
  };
  const bad = {
    type: "heatmap", z: heat.nonfinite, ...place, y0: 0, dy: 1, hoverinfo: "none",
    showscale: false, colorscale: [[0, color("nonfinite")], [1, color("nonfinite")]],
  };
  return heat.anyNonfinite ? [cells, bad] : [cells];
}

const key = () => ({
  text: `<span style="color:${color("nonfinite")}">■</span> not finite`, showarrow: false, font: { size: 11 },
  x: 1, xref: "paper", xanchor: "left", xshift: 10, y: 0, yref: "paper", yanchor: "top", yshift: -8,
});

function colors({ low, high }, { moment, scale }) {
  if (moment !== "removed" && scale === "relative") {
    const reach = Math.min(3, Math.max(1, Math.ceil(Math.max(high, -low))));
    const ticks = [...Array(2 * reach + 1).keys()].map((i) => i - reach);
    const texts = ticks.map((t) => (t === 0 ? "median" : `${t < 0 ? "÷" : "×"} ${10 ** Math.abs(t)}`));
    return { low: -reach, high: reach, ticks, texts, colorscale: diverging() };
  }
  const bottom = Number.isFinite(low) ? Math.floor(Math.max(low, high - DEEPEST)) : 0;
  const top = Number.isFinite(high) ? Math.max(bottom + 1, Math.ceil(high)) : 1;
  const every = Math.ceil((top - bottom) / 8);
  const ticks = [];
  for (let tick = bottom; tick <= top; tick += every) ticks.push(tick);
  const texts = ticks.map((t) => (moment === "removed" ? `÷ 10<sup>${t}</sup>` : `10<sup>${t}</sup>`));
  return { low: bottom, high: top, ticks, texts, colorscale: sequential() };
}

function rowAxis(texts, height) {
  const every = Math.ceil((LABEL_PIXELS * texts.length) / height);
  const tickvals = [...texts.keys()].filter((i) => i % every === 0);
  return axis("", {
    range: [texts.length - 0.5, -0.5],
    tickvals,
    ticktext: tickvals.map((i) => plain(texts[i])),
    tickfont: { size: 11 },
    showgrid: false,
    automargin: false,
    uirevision: draws,
  });
}

// Beside the cells, not on them: what is selected may be one pixel.
function selection(rows, summary, look) {
  const arrow = { showarrow: false, font: { size: 12, color: color("ink") } };
  const column = summary.names.indexOf(look.parameter);
  const row = rows.findIndex((shown) => shown.columns.includes(column));
  const step = { ...arrow, text: "▼", x: look.step, y: 1, yref: "paper", yanchor: "bottom", yshift: -3 };
  const parameter = { ...arrow, text: "◀", y: row, x: 1, xref: "paper", xanchor: "left", xshift: -3 };
  return row < 0 ? [step] : [step, parameter];
}
