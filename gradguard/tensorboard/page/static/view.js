// What the page shows, and the link that shows it again.
import { readLink, writeLink } from "./host.js";

const DEFAULTS = {
  run: "",
  compare: [],
  moment: "before",
  scale: "relative",
  filter: "",
  order: "model",
  top: 0,
  group: "parameter",
  start: null, // steps; null for the whole run
  stop: null,
  first: null, // rows of the heatmap; null for all
  last: null,
  parameter: "",
  step: null,
  statistic: "weight_sd",
};

const NUMBERS = new Set(["top", "start", "stop", "first", "last", "step"]);

export const view = { ...DEFAULTS };

// Whether the step was asked for, by hand or by a link; else each run has its own.
let isStepAsked = false;

export function restore() {
  const link = readLink();
  for (const key of Object.keys(DEFAULTS)) {
    if (!link.has(key)) continue;
    if (key === "compare") view[key] = link.getAll(key);
    else view[key] = NUMBERS.has(key) ? Math.trunc(Number(link.get(key))) || 0 : link.get(key);
  }
  isStepAsked = link.has("step");
}

export function askForStep(step) {
  isStepAsked = true;
  change({ step });
}

export function changeRun(run) {
  showAll();
  change(isStepAsked ? { run } : { run, step: null });
}

// A step the run does not have is chosen anew.
export function hasStep({ start, stop }) {
  return view.step !== null && start <= view.step && view.step <= stop;
}

export function change(changes) {
  Object.assign(view, changes);
  const link = new URLSearchParams();
  for (const [key, value] of Object.entries(view)) {
    if (key === "compare") value.forEach((run) => link.append(key, run));
    else if (value !== DEFAULTS[key]) link.set(key, value);
  }
  writeLink(link.toString());
}

export const showAll = () => change({ start: null, stop: null, first: null, last: null });

// The steps all charts show: the heatmap's zoom, or everything the run has.
export function stepsShown(summary) {
  const start = Math.max(view.start ?? summary.start, summary.start);
  const stop = Math.min(view.stop ?? summary.stop, summary.stop);
  return start <= stop ? { start, stop } : { start: summary.start, stop: summary.stop };
}
