// What the page is asked to show, the link that asks for it again, and what it shows.
import { readLink, writeLink } from "./host.js";

// Nothing, or null, where the run's own view decides.
const DEFAULTS = {
  run: "",
  compare: [],
  finding: 0, // whose view, by its place in the verdict
  moment: "",
  scale: "",
  group: "",
  filter: "",
  order: "model",
  top: 0,
  start: null, // steps
  stop: null,
  first: null, // rows of the heatmap; null for all
  last: null,
  parameter: "",
  step: null,
  statistic: "weight_sd",
};

const ALL = { start: 0, stop: null, first: null, last: null };
const OF_THE_RUN = { start: null, stop: null, first: null, last: null, parameter: "", step: null };
const OF_THE_FINDING = { ...OF_THE_RUN, moment: "", scale: "", group: "", filter: "", order: "model", top: 0 };

const NUMBERS = new Set(["finding", "top", "start", "stop", "first", "last", "step"]);

// From here on a row of the heatmap holds a block, unless asked otherwise.
const MANY = 60;

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

export function change(changes) {
  Object.assign(view, changes);
  const link = new URLSearchParams();
  for (const [key, value] of Object.entries(view)) {
    if (key === "compare") value.forEach((run) => link.append(key, run));
    else if (value !== DEFAULTS[key]) link.set(key, value);
  }
  writeLink(link.toString());
}

export const showAll = () => change(ALL);

export function changeFinding(finding) {
  isStepAsked = false;
  change({ ...OF_THE_FINDING, finding });
}

export function changeRun(run) {
  const { step } = view;
  change({ ...OF_THE_RUN, finding: 0, run, step: isStepAsked ? step : null });
}

// A hand on a chart: the next run chooses a step of its own.
export function changeSelection(selection) {
  isStepAsked = false;
  change(selection);
}

export function askForStep(step) {
  isStepAsked = true;
  change({ step });
}

export const findings = ({ verdict }) => [verdict, ...verdict.others];

// The view in full: what was asked for, else what shows the finding, else the usual.
export function resolved(summary) {
  const { names, start, stop, largest } = summary;
  const inside = (step) => (step >= start && step <= stop ? step : null);
  const usual = {
    moment: "before",
    scale: "relative",
    group: names.length < MANY ? "parameter" : "block",
    parameter: largest.parameter,
    step: largest.step,
    ...given(findings(summary)[view.finding]?.look ?? {}),
  };
  const look = { ...view, ...usual, ...given({ ...view, step: inside(view.step) }) };
  if (!names.includes(look.parameter)) look.parameter = usual.parameter;
  return { ...look, ...stepsShown(summary, look) };
}

const given = (some) =>
  Object.fromEntries(Object.entries(some).filter(([, value]) => value !== null && value !== ""));

// A step that was asked for is never outside of what is shown, nor is any run.
function stepsShown(summary, look) {
  const isAsked = view.start !== null || view.stop !== null;
  let start = Math.max((isAsked ? view.start : look.start) ?? 0, summary.start);
  let stop = Math.min((isAsked ? view.stop : look.stop) ?? summary.stop, summary.stop);
  const isAway = !isAsked && (look.step < start || look.step > stop);
  if (start > stop || isAway) [start, stop] = [summary.start, summary.stop];
  return { start, stop };
}
