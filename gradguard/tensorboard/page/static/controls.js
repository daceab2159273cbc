// The column on the left: which runs, which parameters, and where to look.
import { STATISTICS } from "./constants.js";
import { selected } from "./rows.js";
import { change, view } from "./view.js";

export const SIDEBAR = `
  <fieldset>
    <legend>Runs</legend>
    <input type="search" id="run-filter" placeholder="filter runs" aria-label="Filter runs">
    <p class="heads"><span>show</span><span>compare</span></p>
    <ul id="runs"></ul>
  </fieldset>
  <fieldset>
    <legend>Heatmap</legend>
    <label>Show <select data-key="moment">
      <option value="before">norm before clipping</option>
      <option value="after">norm after clipping</option>
      <option value="removed">what clipping removed</option>
    </select></label>
    <label>Colour <select data-key="scale">
      <option value="relative">relative to median</option>
      <option value="absolute">absolute, log10</option>
    </select></label>
    <button type="button" id="reset">Show all steps and rows</button>
  </fieldset>
  <fieldset>
    <legend>Parameters</legend>
    <label>Name matches <input type="search" data-key="filter" placeholder="regular expression" spellcheck="false"></label>
    <label>Rows <select data-key="group">
      <option value="parameter">one per parameter</option>
      <option value="module">one per module</option>
      <option value="block">one per block</option>
    </select></label>
    <label>Order <select data-key="order">
      <option value="model">of the model</option>
      <option value="worst">worst first</option>
    </select></label>
    <label>Only the worst <input type="number" data-key="top" min="0" step="1" placeholder="all"></label>
  </fieldset>
  <fieldset>
    <legend>Selected</legend>
    <label>Parameter <select id="parameter"></select></label>
    <label>Step <input type="number" id="step" min="0" step="1"></label>
  </fieldset>
  <fieldset id="by-epoch">
    <legend>By epoch</legend>
    <label>Show <select data-key="statistic">
      ${Object.entries(STATISTICS).map(([name, { label }]) => `<option value="${name}">${label}</option>`).join("")}
    </select></label>
  </fieldset>
  <fieldset>
    <legend>Worth a look</legend>
    <ol id="highlights"></ol>
  </fieldset>`;

const by = (id) => document.getElementById(id);

// Calls `redraw` after every change of the view.
export function listen(redraw) {
  for (const control of document.querySelectorAll("[data-key]")) {
    const { key } = control.dataset;
    control.addEventListener("change", () => {
      const value = control.type === "number" ? Math.max(0, Math.trunc(control.value)) : control.value;
      change({ [key]: value, first: null, last: null });
      redraw();
    });
  }
  by("run-filter").addEventListener("input", filterRuns);
  by("reset").addEventListener("click", () => redraw(change({ start: null, stop: null, first: null, last: null })));
  by("parameter").addEventListener("change", ({ target }) => redraw(change({ parameter: target.value })));
  by("step").addEventListener("change", ({ target }) =>
    redraw(change({ step: Math.max(0, Math.trunc(target.value)) })));
}

export function showRuns(sources, run, redraw) {
  const list = by("runs");
  const keys = sources.map((source) => source.key);
  if (keys.join("\n") !== list.dataset.keys) {
    list.replaceChildren(...keys.map((key) => runItem(key, redraw)));
    list.dataset.keys = keys.join("\n");
    filterRuns();
  }
  for (const item of list.children) {
    const [shown, compared] = item.querySelectorAll("input");
    shown.checked = item.dataset.run === run;
    compared.checked = !shown.checked && view.compare.includes(item.dataset.run);
    compared.disabled = shown.checked;
  }
}

export function showChoices(summary) {
  for (const control of document.querySelectorAll("[data-key]")) {
    control.value = view[control.dataset.key] || (control.type === "number" ? "" : view[control.dataset.key]);
  }
  by("by-epoch").hidden = !summary.epochs;
  const columns = selected(summary, view);
  document.querySelector("[data-key=filter]").setAttribute("aria-invalid", columns.length === 0);
  const names = columns.map((column) => summary.names[column]);
  const parameter = by("parameter");
  parameter.replaceChildren(...names.map((name) => new Option(name)));
  parameter.value = view.parameter;
  by("step").value = view.step;
}

export function showHighlights(highlights, redraw) {
  const items = highlights.map(({ step, parameter, text, severity, advice, command }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.severity = severity;
    button.append(
      element("strong", severity && `${severity}: `),
      severity ? text : `Step ${step}: ${text}`,
      element("small", advice),
    );
    button.addEventListener("click", () => {
      change({ ...(step !== null && { step }), ...(parameter !== null && { parameter }) });
      redraw();
    });
    const item = document.createElement("li");
    item.append(button, ...(command ? [element("code", command)] : []));
    return item;
  });
  by("highlights").replaceChildren(...items);
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function runItem(key, redraw) {
  const item = document.createElement("li");
  item.dataset.run = key;
  item.innerHTML = `<label><input type="radio" name="run"><span></span></label><input type="checkbox">`;
  item.querySelector("span").textContent = key;
  const [shown, compared] = item.querySelectorAll("input");
  compared.ariaLabel = `Compare ${key}`;
  shown.addEventListener("change", () =>
    redraw(change({ run: key, start: null, stop: null, first: null, last: null })));
  compared.addEventListener("change", () => {
    const others = view.compare.filter((run) => run !== key);
    redraw(change({ compare: compared.checked ? [...others, key] : others }));
  });
  return item;
}

function filterRuns() {
  const text = by("run-filter").value.toLowerCase();
  for (const item of by("runs").children) {
    item.hidden = !item.dataset.run.toLowerCase().includes(text);
  }
}
