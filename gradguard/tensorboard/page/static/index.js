// The Gradients page. TensorBoard calls `render` once, in a document of our own.
import * as controls from "./controls.js";
import * as data from "./data.js";
import { draw } from "./drawing.js";
import * as full from "./full.js";
import * as hands from "./hands.js";
import { onDarkMode, onReload } from "./host.js";
import * as keys from "./keys.js";
import { plotly, style } from "./loading.js";
import { runNames } from "./names.js";
import { PAGE } from "./page.js";
import * as pointer from "./pointer.js";
import * as runs from "./runs.js";
import * as tools from "./tools.js";
import { resolved, restore, view } from "./view.js";

const POLL_SECONDS = 30;
const RETRY_SECONDS = 3;

const EMPTY = "No run here was recorded with GradGuard. Add GradGuard() to the callbacks of " +
  "a Trainer that has a TensorBoardLogger, and train.";

const by = (id) => document.getElementById(id);

let sources = [];
const summaries = new Map(); // by source key
let [newest, asked] = [0, 0];
let isStale = true; // until all that is selected is drawn
let standIn = ""; // shown while the selected run is not there
let retry = null;
let drawn = null; // {source, summary} of the heatmap

export async function render() {
  plotly().catch(() => {}); // asked for again where it is needed
  await style().catch(() => {});
  document.body.innerHTML = PAGE;
  window.focus(); // so that keys are heard before the first click
  restore();
  runs.listen();
  controls.listen(redraw);
  tools.listen(by("tools"), redraw);
  full.listen(redraw);
  keys.listen(redraw, known);
  pointer.listen(by("timeline"), by("heatmap"), peak);
  window.addEventListener("resize", soon(redraw));
  onDarkMode(redraw);
  onReload(refresh);
  setInterval(refresh, POLL_SECONDS * 1000);
  await refresh();
}

// Once, when it has been quiet for a moment.
function soon(act) {
  let waiting = null;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(act, 150);
  };
}

const peak = async (cell) => data.peak(drawn.source, hands.question(cell));

// As asked for by now, which may not be drawn yet: fast keys all count.
const known = () => drawn && { ...drawn, look: resolved(drawn.summary) };

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
  const isNewest = () => drawing === newest;
  document.body.dataset.state = "drawing";
  try {
    const said = await drawSelected(isNewest);
    if (!isNewest()) return;
    isStale = false;
    document.body.dataset.lost = false;
    say(said);
    tryAgainIf(isMissing());
  } catch (error) {
    if (isNewest()) failed(error);
  }
}

function failed(error) {
  isStale ||= error instanceof data.Passing;
  document.body.dataset.lost = isStale;
  tryAgainIf(isStale);
  say(error.message);
}

function tryAgainIf(isNeeded) {
  clearTimeout(retry);
  retry = isNeeded ? setTimeout(refresh, RETRY_SECONDS * 1000) : null;
}

const isThere = (key) => sources.some((source) => source.key === key);
const isMissing = () => sources.length > 0 && !isThere(view.run);
const latest = (among) => among.reduce((a, b) => (b.updated > a.updated ? b : a));

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

// Returns what there is to say about it.
async function drawSelected(isNewest) {
  document.body.dataset.empty = !sources.length;
  if (!sources.length) return EMPTY;
  const shown = await selectedRuns();
  if (!isNewest()) return "";
  const [{ source, summary }] = shown;
  sayWhatIsMissing();
  runs.show(sources, source.key, shown.map((one) => one.source.key), redraw);
  const listen = () => hands.listen({ redraw, failed, peak, known });
  const said = await draw(shown, { redraw, isNewest, listen });
  if (isNewest()) drawn = { source, summary };
  return said;
}

// That of the heatmap first.
async function selectedRuns() {
  const run = shownRun();
  const keys = [run, ...view.compare.filter((key) => key !== run && isThere(key))];
  const names = runNames(sources.map(({ key }) => key));
  return Promise.all(keys.map(async (key) => {
    const source = sources.find((one) => one.key === key);
    return { source, name: names.get(key), summary: await summaryOf(source) };
  }));
}

async function summaryOf(source) {
  const held = summaries.get(source.key);
  if (held?.updated === source.updated) return held.summary;
  const summary = await data.summary(source);
  summaries.set(source.key, { updated: source.updated, summary });
  return summary;
}

function say(text) {
  by("status").textContent = text;
  by("status").hidden = !text;
  document.body.dataset.state = "ready";
}
