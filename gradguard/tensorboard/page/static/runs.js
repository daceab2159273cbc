// The list of runs: which one is shown, and which are drawn beside it.
import { element } from "./elements.js";
import { runNames } from "./names.js";
import { change, changeRun, view } from "./view.js";

export const PICKER = `
  <details id="run-picker">
    <summary aria-label="Runs"><b id="run-name">Runs</b></summary>
    <div>
      <input type="search" id="run-filter" placeholder="filter runs" aria-label="Filter runs">
      <p class="heads"><span>show</span><span>compare</span></p>
      <ul id="runs"></ul>
    </div>
  </details>`;

const by = (id) => document.getElementById(id);

export function listen() {
  const picker = by("run-picker");
  by("run-filter").addEventListener("input", filter);
  document.addEventListener("pointerdown", ({ target }) => {
    if (!picker.contains(target)) picker.open = false;
  });
  picker.addEventListener("toggle", () => {
    if (picker.open) picker.querySelector(":checked")?.closest("li").scrollIntoView({ block: "nearest" });
  });
}

// Each run that is drawn has its colour in the list, which is the legend.
export function show(sources, run, drawn, redraw) {
  const list = by("runs");
  const names = runNames(sources.map((source) => source.key));
  const keys = [...names.keys()];
  if (keys.join("\n") !== list.dataset.keys) {
    list.replaceChildren(...keys.map((key) => item(key, names.get(key), redraw)));
    list.dataset.keys = keys.join("\n");
    filter();
  }
  for (const entry of list.children) {
    const [shown, compared] = entry.querySelectorAll("input");
    shown.checked = entry.dataset.run === run;
    compared.checked = !shown.checked && view.compare.includes(entry.dataset.run);
    compared.disabled = shown.checked;
    swatch(entry.querySelector(".swatch"), drawn, entry.dataset.run);
  }
  by("run-name").replaceChildren(...drawn.map((key) => {
    const mark = element("i", { className: "swatch" });
    swatch(mark, drawn, key);
    return element("span", { title: key }, mark, names.get(key));
  }));
}

function swatch(mark, drawn, key) {
  const at = drawn.indexOf(key);
  mark.style.background = drawn.length > 1 && at >= 0 ? `var(--line-${at % 6})` : "none";
}

function item(key, name, redraw) {
  const entry = element("li");
  entry.dataset.run = key;
  entry.innerHTML = `<label><input type="radio" name="run"><i class="swatch"></i><span></span></label><input type="checkbox">`;
  Object.assign(entry.querySelector("span"), { textContent: name, title: key });
  const [shown, compared] = entry.querySelectorAll("input");
  compared.ariaLabel = `Compare ${key}`;
  shown.addEventListener("change", () => redraw(changeRun(key)));
  compared.addEventListener("change", () => {
    const others = view.compare.filter((run) => run !== key);
    redraw(change({ compare: compared.checked ? [...others, key] : others }));
  });
  return entry;
}

function filter() {
  const text = by("run-filter").value.toLowerCase();
  for (const entry of by("runs").children) {
    entry.hidden = !entry.dataset.run.toLowerCase().includes(text);
  }
}
