// The Gradients page. TensorBoard calls `render` once, in a document of our own.
import * as charts from "./charts.js";
import * as controls from "./controls.js";
import * as data from "./data.js";
import * as heatmap from "./heatmap.js";
import { onDarkMode, onReload } from "./host.js";
import { grouped, outlined, selected, understood, written } from "./rows.js";
import { change, hasStep, restore, showAll, stepsShown, view } from "./view.js";

const POLL_SECONDS = 30;
const RETRY_SECONDS = 3;
const BINS = 1000;

const PAGE = `
  <aside aria-label="What to show">${controls.SIDEBAR}</aside>
  <main>
    <p id="status" role="status">Loading.</p>
    <p id="missing" role="status" hidden></p>
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
let [newest, asked] = [0, 0];
let isStale = true; // until all that is selected is drawn
let standIn = ""; // shown while the selected run is not there
let retry = null;

const style = untilLoaded(() => Object.assign(document.createElement("link"),
  { rel: "stylesheet", href: new URL("style.css", import.meta.url) }));
const plotly = untilLoaded(() => Object.assign(document.createElement("script"),
  { src: new URL("plotly.min.js", import.meta.url) }));

export async function render() {
  plotly().catch(() => {}); // asked for again where it is needed
  await style().catch(() => {});
  document.body.innerHTML = PAGE;
  restore();
  controls.listen(redraw);
  onDarkMode(redraw);
  onReload(refresh);
  setInterval(refresh, POLL_SECONDS * 1000);
  await refresh();
}

// Loads once; what failed is tried again by the next call.
function untilLoaded(make) {
  let loading = null;
  return () => (loading ??= loaded(make()).catch((error) => {
    loading = null;
    throw error;
  }));
}

function loaded(element) {
  return new Promise((resolve, reject) => {
    const failed = () => {
      element.remove();
      reject(data.silent());
    };
    Object.assign(element, { onload: resolve, onerror: failed });
    document.head.append(element);
  });
}

// Look for new runs and new steps, and draw if there are any, or if something failed.
async function refresh() {
  const asking = ++asked;
  try {
    const found = await data.sources();
    await style();
    if (asking !== asked) return;
    if (sources.length && !found.length) {
      throw new data.Passing("TensorBoard knows of no run any more; trying again.");
    }
    const isSame = JSON.stringify(found) === JSON.stringify(sources);
    sources = found;
    if (isStale || !isSame) await redraw();
    else tryAgainIf(isMissing());
  } catch (error) {
    if (asking === asked) failed(error);
  }
}

async function redraw() {
  const drawing = ++newest;
  try {
    await draw(() => drawing === newest);
    if (drawing !== newest) return;
    isStale = false;
    tryAgainIf(isMissing());
  } catch (error) {
    if (drawing === newest) failed(error);
  }
}

function failed(error) {
  isStale ||= error instanceof data.Passing;
  tryAgainIf(isStale);
  say(error.message);
}

function tryAgainIf(isNeeded) {
  clearTimeout(retry);
  retry = isNeeded ? setTimeout(refresh, RETRY_SECONDS * 1000) : null;
}

const isThere = (key) => sources.some((source) => source.key === key);
const isMissing = () => sources.length > 0 && !isThere(view.run);

// The selected run; while it is not there, another, and the page says so.
function shownRun() {
  view.run ||= latest(sources).key;
  if (isMissing() && !isThere(standIn)) standIn = latest(sources).key;
  return isMissing() ? standIn : view.run;
}

function sayWhatIsMissing() {
  by("missing").hidden = !isMissing();
  by("missing").textContent = isMissing() ? `Run ${view.run} is not there; this is ${standIn}.` : "";
}

async function draw(isNewest) {
  document.body.dataset.state = "drawing";
  if (!sources.length) return say(EMPTY);
  const run = shownRun();
  const keys = [run, ...view.compare.filter((key) => key !== run)];
  const shown = await Promise.all(
    keys.map((key) => sources.find((source) => source.key === key)).filter(Boolean).map(async (source) =>
      ({ source, summary: await summaryOf(source) })));
  if (!isNewest()) return;
  const [{ summary }] = shown;
  choose(summary);
  sayWhatIsMissing();
  controls.showRuns(sources, run, redraw);
  controls.showChoices(summary);
  controls.showHighlights(summary.highlights, redraw);
  const columns = selected(summary, view);
  document.body.dataset.matches = columns.length > 0;
  if (!columns.length) return say(understood(view.filter).fault ?? "No parameter has a name that matches.");
  const groups = grouped(summary, columns, view.group);
  const library = plotly();
  library.catch(() => {}); // said where it is awaited, if it still is by then
  await heatmap.draw(by("heatmap"), shown[0], groups, { plotly: library, isNewest });
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
  if (!hasStep(summary)) view.step = worst?.step ?? summary.stop;
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
  panel.on("plotly_doubleclick", () => redraw(showAll()));
  panel.addEventListener("keydown", move);
}

// Of all that shares the cell, the largest is selected.
async function select(cell) {
  const run = shownRun();
  const source = sources.find(({ key }) => key === run);
  const { start, stop, row } = cell;
  const { moment, scale } = view;
  try {
    change(await data.peak(source, { rows: written([row]), start, stop, moment, scale }));
  } catch (error) {
    return failed(error);
  }
  redraw();
}

function zoom(event) {
  if (event["xaxis.autorange"] || event["yaxis.autorange"]) showAll();
  else if ("xaxis.range[0]" in event || "yaxis.range[0]" in event) {
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
  const { summary } = summaries.get(shownRun());
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
