// The line over the heatmap: what its cells show, in which rows and which order.
import { element } from "./elements.js";
import { roving } from "./roving.js";
import { change, showAll } from "./view.js";

const CHOICES = [
  ["Show", "moment", { before: "before", after: "after", removed: "removed" }],
  ["Colour", "scale", { relative: "÷ median", absolute: "L2 norm" }],
  ["Rows", "group", { parameter: "parameter", module: "module", block: "block" }],
  ["Order", "order", { model: "model", worst: "worst first", "worst 10": "worst 10" }],
];

export function listen(bar, redraw) {
  const groups = CHOICES.map(([label, key, options]) => {
    const buttons = Object.entries(options).map(([value, text]) => {
      const button = element("button", { type: "button" }, text);
      Object.assign(button.dataset, { key, value });
      button.addEventListener("click", () => {
        change({ ...asked(key, value), first: null, last: null });
        redraw();
      });
      return button;
    });
    const group = element("span", { role: "group", ariaLabel: label }, element("i", {}, label), ...buttons);
    return group;
  });
  const all = element("button", { type: "button", id: "reset", title: "All steps and rows (0)" }, "Show all");
  all.addEventListener("click", () => redraw(showAll()));
  bar.replaceChildren(...groups, all, element("span", { id: "caption" }));
}

// An order may have a number: only so many.
function asked(key, value) {
  if (key !== "order") return { [key]: value };
  const [order, top = 0] = value.split(" ");
  return { order, top: Number(top) };
}

export function show(bar, look) {
  const order = look.top ? `${look.order} ${look.top}` : look.order;
  for (const button of bar.querySelectorAll("[data-key]")) {
    button.ariaPressed = { ...look, order }[button.dataset.key] === button.dataset.value;
  }
  roving(bar);
}
