// The fields: which names, which parameter, which step, which statistic.
import { selected, understood } from "./rows.js";
import { askForStep, change, view } from "./view.js";

const by = (id) => document.getElementById(id);

// Calls `redraw` after every change of the view.
export function listen(redraw) {
  by("filter").addEventListener("input", ({ target }) =>
    redraw(change({ filter: target.value, first: null, last: null })));
  by("statistic").addEventListener("change", ({ target }) => redraw(change({ statistic: target.value })));
  by("parameter").addEventListener("change", ({ target }) => redraw(change({ parameter: target.value })));
  by("step").addEventListener("change", ({ target }) =>
    redraw(askForStep(Math.max(0, Math.trunc(target.value)))));
}

export function show(summary, look) {
  const filter = by("filter");
  if (filter !== document.activeElement) filter.value = view.filter;
  const names = selected(summary, look).map((column) => summary.names[column]);
  filter.setAttribute("aria-invalid", Boolean(understood(view.filter).fault));
  const parameter = by("parameter");
  const listed = names.includes(look.parameter) ? names : [look.parameter, ...names];
  parameter.replaceChildren(...listed.map((name) => new Option(name)));
  parameter.value = look.parameter;
  by("step").value = look.step;
  by("statistic").value = look.statistic;
}
