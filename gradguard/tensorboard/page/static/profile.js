// All layers at one step: a line for each kind of parameter, from the input to the output.
import { heightOf } from "./full.js";
import { fitted, plain } from "./names.js";
import { blockOf } from "./rows.js";
import { BY_HEIGHT, WIDE, line, marks, styles, withOneEntry } from "./series.js";
import { axis, color, config, logAxis, titled } from "./theme.js";

const MOST_NAMES = 24;

// The first that fits; a bias of a norm is a bias.
const KINDS = [
  { kind: "biases", symbol: "x-thin-open", fits: /(^|[._])(bias|b|bias_\w+|in_proj_bias)$/ },
  { kind: "norms", symbol: "cross-thin-open", fits: /norm|(^|\.)(ln|bn)[_.\d]/i },
  { kind: "attention", symbol: "diamond-open", fits: /attn|attention|(^|\.)[qkv]_?proj/i },
  { kind: "weights", symbol: "circle", fits: /./ },
];

export function draw(panel, shown, columns, names) {
  const places = [...new Set(columns.map((column) => blockOf(names[column])))];
  const kept = new Set(columns.map((column) => names[column]));
  const traces = shown.flatMap((one, i) => {
    const points = gathered(one, kept, places);
    return [...lines(points, styles(shown, i)), bad(points)];
  });
  const { texts, prefix } = fitted(places, 150);
  const every = Math.ceil(places.length / MOST_NAMES);
  const at = [...places.keys()].filter((place) => place % every === 0);
  const look = titled(`Norm by layer at step ${shown[0].step}`, subtitle(shown, prefix), {
    height: heightOf(panel, Math.max(330, window.innerHeight / 3)),
    hovermode: "x unified",
    xaxis: axis("", { tickvals: at, ticktext: at.map((i) => plain(texts[i])), tickangle: -45,
      range: [-0.5, places.length - 0.5] }),
    yaxis: logAxis("L2 norm", traces, 6),
    yaxis2: BY_HEIGHT,
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: 11 } },
    margin: { l: 60, r: 16, t: 84, b: 40 },
  });
  return Plotly.react(panel, withOneEntry(traces), look, config("profile"));
}

function subtitle(shown, prefix) {
  const below = prefix && `in ${plain(prefix.slice(0, -1))}`;
  const tone = (moment) => `<span style="color:${color(moment)}"><b>${moment}</b></span>`;
  const dotted = shown.length > 1 ? "dotted: before" : `${tone("before")}, ${tone("after")}`;
  return ["L2 norm of each kind in each layer", below, dotted].filter(Boolean).join("; ");
}

// The norm over the parameters of a kind at a place: what is missing has none.
function gathered(one, kept, places) {
  const at = new Map(places.map((place, i) => [place, i]));
  const points = new Map();
  one.summary.names.forEach((name, column) => {
    if (!kept.has(name) || one.before[column] < 0) return;
    const { kind, symbol } = KINDS.find(({ fits }) => fits.test(name));
    const place = at.get(blockOf(name));
    const key = `${kind} ${place}`;
    const point = points.get(key) ?? { kind, symbol, place, before: [], after: [], names: [] };
    for (const moment of ["before", "after"]) point[moment].push(one[moment][column]);
    point.names.push(name);
    points.set(key, point);
  });
  return [...points.values()].sort((a, b) => a.place - b.place);
}

const norm = (values) => Math.hypot(...values.map((value) => (value === null ? NaN : Number(value))));

// The legend tells the kinds apart, or the runs; the subtitle before from after.
function lines(points, style) {
  return ["before", "after"].flatMap((moment) =>
    KINDS.map(({ kind, symbol }) => {
      const some = points.filter((point) => point.kind === kind);
      const look = style(moment === "before" ? `${kind} before` : kind, moment);
      const trace = line(some.map(({ place }) => place), some.map((point) => norm(point[moment])), look);
      const marker = { symbol, size: moment === "before" ? 9 : 6, color: look.color, line: { color: look.color, width: 1.5 } };
      const isAlone = !look.legendgroup;
      const width = moment === "before" && isAlone ? WIDE : 1.5;
      return {
        ...trace, mode: "lines+markers", marker, line: { ...trace.line, width },
        ...(isAlone && { showlegend: moment === "after" }),
        text: some.map(({ names }) => plain(names.length > 1 ? `${kind}, ${names.length} together` : names[0])),
        hovertemplate: `%{text} ${moment}: %{y:.4g}`,
      };
    }).filter(({ x }) => x.length));
}

function bad(points) {
  const x = points.filter(({ before }) => !Number.isFinite(norm(before))).map(({ place }) => place);
  return marks(x, 0.95, "x-thin", { name: "NaN or Inf", legendgroup: "nonfinite", color: color("nonfinite") });
}
