// The Gradients page. TensorBoard calls `render` once, in a document of our own.
import * as charts from "./charts.js";
import * as controls from "./controls.js";
import * as data from "./data.js";
import * as heatmap from "./heatmap.js";
import { onDarkMode, onReload } from "./host.js";
import { grouped, outlined, selected, written } from "./rows.js";
import { change, restore, stepsShown, view } from "./view.js";

const POLL_SECONDS = 30;
const BINS = 1000;

const PAGE = `
  <aside aria-label="What to show">${controls.SIDEBAR}</aside>
  <main>
    <p id="status" role="status">Loading.</p>
    <section id="heatmap" tabindex="0" aria-label="Heatmap; arrow keys move the selection"></section>
    <p id="cell">Point at a cell to read it, click it to select its parameter and step, drag to zoom.</p>
    <section id="totals" aria-label="Total gradient norm"></section>
    <section id="coefficient" aria-label="What the clip did"></section>
    <section id="parameter-chart" aria-label="The selected parameter"></section>
    <section id="profile" aria-label="Norm by layer at the selected step"></section>
    <section id="epochs" aria-label="Weights and gradients by epoch"></section>
  </main>`;

const EMPTY = "No run here was recorded with GradGuard. Add GradGuard() to the callbacks of " +
  "a Trainer that has a TensorBoardLogger, and train.";

const by = (id) => document.getElementById(id);

let sources = [];
const summaries = new Map(); // by source key
let plotly = null; // settles once it is loaded
let newest = 0;

export async function render() {
  plotly = loadPlotly();
  await loadStyle();
  document.body.innerHTML = PAGE;
  restore();
  controls.listen(redraw);
  onDarkMode(redraw);
  onReload(refresh);
  setInterval(refresh, POLL_SECONDS * 1000);
  await refresh();
}

function loadStyle() {
  const link = document.createElement("link");
  return loaded(Object.assign(link, { rel: "stylesheet", href: new URL("style.css", import.meta.url) }));
}

function loadPlotly() {
  const script = document.createElement("script");
  return loaded(Object.assign(script, { src: new URL("plotly.min.js", import.meta.url) }));
}

function loaded(element) {
  return new Promise((resolve, reject) => {
    Object.assign(element, { onload: resolve, onerror: reject });
    document.head.append(element);
  });
}

// Look for new runs and new steps, and draw if there are any.
async function refresh() {
  try {
    const found = await data.sources();
    if (sources.length && JSON.stringify(found) === JSON.stringify(sources)) return;
    sources = found;
    await redraw();
  } catch (error) {
    sources = []; // so that everything is drawn once the server answers again
    say(error.message);
  }
}

async function redraw() {
  const drawing = ++newest;
  try {
    await draw(() => drawing === newest);
  } catch (error) {
    if (drawing === newest) say(error.message);
  }
}

async function draw(isNewest) {
  document.body.dataset.state = "drawing";
  if (!sources.length) return say(EMPTY);
  if (!sources.some((source) => source.key === view.run)) view.run = latest(sources).key;
  const keys = [view.run, ...view.compare.filter((key) => key !== view.run)];
  const shown = await Promise.all(
    keys.map((key) => sources.find((source) => source.key === key)).filter(Boolean).map(async (source) =>
      ({ source, summary: await summaryOf(source) })));
  if (!isNewest()) return;
  const [{ summary }] = shown;
  choose(summary);
  controls.showRuns(sources, redraw);
  controls.showChoices(summary);
  controls.showHighlights(summary.highlights, redraw);
  const columns = selected(summary, view);
  if (!columns.length) return say("No parameter has a name that matches.");
  const groups = grouped(summary, columns, view.group);
  await heatmap.draw(by("heatmap"), shown[0], groups, { plotly, isNewest });
  if (!isNewest()) return;
  performance.mark("gradguard-heatmap");
  listenToHeatmap();
  await drawLines(shown, columns, isNewest);
  if (isNewest()) say(remarks(summary));
}

const latest = (among) => among.reduce((a, b) => (b.updated > a.updated ? b : a));

// Until something was clicked, the page shows what is most worth a look.
function choose(summary) {
  // Rather the largest finite step than one where everything is NaN, as findings may be.
  const { highlights } = summary;
  const worst = highlights.find(({ severity }) => !severity) ?? highlights[0];
  if (!summary.names.includes(view.parameter)) view.parameter = worst?.parameter ?? summary.names[0];
  view.step ??= worst?.step ?? summary.stop;
}

async function drawLines(shown, columns, isNewest) {
  const { summary } = shown[0];
  const steps = stepsShown(summary);
  const having = shown.filter((one) => one.summary.names.includes(view.parameter));
  const window = { ...steps, bins: BINS };
  const ask = (runs, question) => Promise.all(runs.map(async (one) => ({ ...one, ...(await question(one)) })));
  const inside = shown.filter(({ summary: { start, stop } }) => start <= steps.stop && stop >= steps.start);
  const lines = outlined(summary, columns);
  by("epochs").hidden = !summary.epochs;
  const [totals, parameters, profiles, [epochs]] = await Promise.all([
    ask(inside, ({ source }) => data.chart("totals", source, window)),
    ask(having.filter((one) => inside.includes(one)), ({ source }) =>
      data.chart("parameter", source, { ...window, parameter: view.parameter })),
    ask(shown, ({ source }) => data.chart("profile", source, { step: view.step })),
    ask(summary.epochs ? [shown[0]] : [], ({ source }) =>
      data.chart("epochs", source, { rows: written([{ columns: lines }]), statistic: view.statistic })),
  ]);
  if (!isNewest()) return;
  await Promise.all([
    charts.totals(by("totals"), totals, steps),
    charts.coefficient(by("coefficient"), totals, steps),
    charts.parameter(by("parameter-chart"), parameters, steps, view.parameter),
    charts.profile(by("profile"), profiles, columns, summary.names),
    epochs && charts.epochs(by("epochs"), epochs, view.statistic, columns.length),
  ]);
}

async function summaryOf(source) {
  const held = summaries.get(source.key);
  if (held?.updated === source.updated) return held.summary;
  const summary = await data.summary(source);
  summaries.set(source.key, { updated: source.updated, summary });
  return summary;
}

function remarks({ writes, writes_read, left_out }) {
  const sampled = `This run is too large to read at once: a random ${writes_read} of its ${writes} writes are shown.`;
  return [writes === writes_read ? "" : sampled, left_out].filter(Boolean).join(" ");
}

function say(text) {
  by("status").textContent = text;
  by("status").hidden = !text;
  document.body.dataset.state = "ready";
}

function listenToHeatmap() {
  const panel = by("heatmap");
  if (panel.dataset.listens) return;
  panel.dataset.listens = "true";
  panel.on("plotly_hover", ({ points }) => {
    by("cell").textContent = heatmap.described(heatmap.cellAt(points[0]));
  });
  panel.on("plotly_click", ({ points }) => select(heatmap.cellAt(points[0])));
  panel.on("plotly_relayout", zoom);
  panel.addEventListener("keydown", move);
}

// Of all that shares the cell, the largest is selected.
async function select(cell) {
  const source = sources.find(({ key }) => key === view.run);
  const { start, stop, row } = cell;
  const { moment, scale } = view;
  change(await data.peak(source, { rows: written([row]), start, stop, moment, scale }));
  redraw();
}

function zoom(event) {
  if (event["xaxis.autorange"] || event["yaxis.autorange"]) {
    change({ start: null, stop: null, first: null, last: null });
  } else if ("xaxis.range[0]" in event || "yaxis.range[0]" in event) {
    const changes = {};
    if ("xaxis.range[0]" in event) {
      changes.start = Math.max(0, Math.round(event["xaxis.range[0]"]));
      changes.stop = Math.max(changes.start, Math.round(event["xaxis.range[1]"]));
    }
    if ("yaxis.range[0]" in event) {
      Object.assign(changes, heatmap.rowsBetween(event["yaxis.range[1]"], event["yaxis.range[0]"]));
    }
    change(changes);
  } else return;
  redraw();
}

function move(event) {
  const { summary } = summaries.get(view.run);
  const names = selected(summary, view).map((column) => summary.names[column]);
  const at = names.indexOf(view.parameter);
  const changes = {
    ArrowLeft: { step: Math.max(summary.start, view.step - 1) },
    ArrowRight: { step: Math.min(summary.stop, view.step + 1) },
    ArrowUp: { parameter: names[Math.max(0, at - 1)] },
    ArrowDown: { parameter: names[Math.min(names.length - 1, at + 1)] },
  }[event.key];
  if (!changes) return;
  event.preventDefault();
  change(changes);
  redraw();
}
