// The strips over and under the heatmap: each shows the same steps at the same places.
import { heightOf } from "./full.js";
import { plain, shortened } from "./names.js";
import { BY_HEIGHT, beforeAfter, legend, line, marks, nonfinite, placed, pooling, selectedStep, styles, threshold }
  from "./series.js";
import { RIGHT, axis, color, config, layout, logAxis } from "./theme.js";

const LANES = ["clipped", "skipped", "nonfinite"];
const IN_WORDS = ["clipped", "skipped", "not finite"];

// `look` is the view in full; `left` the margin that all charts over steps share.

export function loss(panel, shown, look, left) {
  const traces = shown.map((one, i) => ({
    ...line(one.steps, one.loss, styles(shown, i)("loss", "ink")),
    showlegend: false,
  }));
  panel.hidden = traces.every(({ y }) => y.every((value) => value === null));
  const isPositive = traces.every(({ y }) => y.every((value) => value === null || value > 0));
  return strip(panel, "loss", traces, look, left, {
    height: 62,
    yaxis: isPositive ? logAxis("", traces, 3) : axis("", { nticks: 4 }),
  });
}

export function totals(panel, shown, look, left) {
  const traces = shown.flatMap((one, i) => [
    ...beforeAfter(one, styles(shown, i)),
    ...threshold(one, styles(shown, i), look.stop),
    nonfinite(one),
  ]);
  const { max_norm: toTry } = shown[0].summary.verdict;
  if (toTry !== null) traces.push(suggested(toTry, look));
  return strip(panel, "total norm", traces, look, left, { height: 108, yaxis: logAxis("", traces, 4) }, pooling(shown));
}

// A step line from the first to the last step, whatever is drawn between.
function suggested(maxNorm, { start, stop }) {
  const look = { name: "suggested", color: color("suggested"), dash: "dot" };
  return line([start - 0.5, stop + 0.5], [maxNorm, maxNorm], look);
}

// Which steps were clipped, skipped or not finite, at any zoom: a lane for each.
export function events(panel, one, look, left) {
  const z = LANES.map((kind, lane) => one[kind].map((is) => (is ? lane : null)));
  const cells = {
    type: "heatmap",
    z,
    ...placed(one.steps, look.stop),
    y0: 0,
    dy: 1,
    ygap: 2,
    zmin: 0,
    zmax: LANES.length - 1,
    showscale: false,
    showlegend: false,
    hoverinfo: "none",
    colorscale: LANES.map((kind, lane) => [lane / (LANES.length - 1), color(kind)]),
  };
  return strip(panel, "", [cells], look, left, {
    height: 46,
    yaxis: axis("", {
      range: [LANES.length - 0.5, -0.5],
      tickvals: [...LANES.keys()],
      ticktext: IN_WORDS,
      tickfont: { size: 11 },
      showgrid: false,
    }),
  });
}

export function parameter(panel, shown, look, left) {
  const traces = shown.flatMap((one, i) => {
    const style = styles(shown, i);
    const clipped = one.steps.filter((_, at) => one.clipped[at]);
    return [
      ...beforeAfter(one, style),
      ...threshold(one, style, look.stop),
      marks(clipped, 0.03, "line-ns-open", style("clipped steps", "clipped")),
      nonfinite(one),
    ];
  });
  const title = plain(shortened(look.parameter, Math.floor((panel.clientWidth - 40) / 7)));
  return strip(panel, title, traces, look, left, {
    height: 150,
    xaxis: { showticklabels: true },
    margin: { t: 24, b: 24 },
    yaxis: logAxis("", traces, 4),
  });
}

export function coefficient(panel, shown, look, left) {
  const traces = shown.flatMap((one, i) => {
    const style = styles(shown, i);
    const share = line(one.fraction_steps, one.fraction, { ...style("share clipped", "before"), shape: "hv" });
    const isAlone = shown.length === 1;
    return [
      { ...share, showlegend: false, yaxis: "y2", ...(isAlone && { fill: "tozeroy", fillcolor: color("wash"), line: { width: 0 } }) },
      line(one.steps, one.coefficient, style("coefficient", "ink")),
    ];
  });
  const share = (shown[0].summary.clip_fraction * 100).toFixed(1);
  return strip(panel, `what the clip did: ${share} % of all steps clipped`, traces, look, left, {
    height: 130,
    xaxis: { showticklabels: true },
    margin: { t: 24, b: 24 },
    yaxis: logAxis("", traces, 3),
    yaxis2: { ...BY_HEIGHT, range: [0, 1.02] },
  });
}

// The title stands in the margin, as the names of rows do; a long one above the chart.
async function strip(panel, title, traces, look, left, { height, xaxis, margin, ...more }, note = "") {
  if (panel.hidden) return;
  const size = heightOf(panel, height);
  const titles = margin
    ? [caption(title, { y: 1, yanchor: "bottom", yshift: 4 })]
    : [caption(`<b>${title}</b>`, { y: 1, yanchor: "top" }), caption(wrapped(note), { y: 0, yanchor: "bottom" })];
  const drawn = layout({
    height: size,
    margin: { l: left, r: RIGHT, t: 6, b: 6, autoexpand: false, ...margin },
    hovermode: "x unified",
    xaxis: {
      ...axis("", { showticklabels: false, ticks: "", automargin: false }),
      ...xaxis,
      range: [look.start - 0.5, look.stop + 0.5],
      uirevision: ++draws,
    },
    yaxis2: BY_HEIGHT,
    shapes: [selectedStep(look)],
    annotations: [...titles.map((text) => ({ ...text, xshift: 10 - left })), legend(traces)],
    showlegend: false,
    ...more,
  });
  Object.assign(drawn.yaxis, { fixedrange: true, automargin: false });
  await Plotly.react(panel, traces, drawn, config(panel.id));
  if (!margin) passBy(panel);
}

// The way of the Tab key to the heatmap is short.
function passBy(panel) {
  for (const button of panel.querySelectorAll(".modebar button")) button.tabIndex = -1;
}

let draws = 0; // the range of steps is the one drawn, never one a hand left behind

const caption = (text, place) => ({
  text, showarrow: false, x: 0, xref: "paper", xanchor: "left", yref: "paper", align: "left",
  font: { size: 12, color: color("muted") }, ...place,
});

const wrapped = (note) => (note ? `<span style="font-size:10px">${note.replace(" of every", "<br>of every")}</span>` : "");
