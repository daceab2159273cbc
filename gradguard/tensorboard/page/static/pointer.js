// One cursor through all charts over steps, and what lies under it.
import { element } from "./elements.js";
import * as heatmap from "./heatmap.js";
import { short } from "./numbers.js";

const REST = 80; // ms at one cell before the server is asked for all of it
const [WIDTH, HEIGHT] = [180, 26]; // of the row's line, pixels

// `more(cell)` gives what is known of the cell's largest norm.
export function listen(timeline, panel, more) {
  const cursor = timeline.querySelector("#cursor");
  const tip = document.getElementById("tip");
  let [resting, at] = [null, ""];
  const leave = () => {
    clearTimeout(resting);
    [cursor.hidden, tip.hidden, at] = [true, true, ""];
  };
  timeline.addEventListener("pointerleave", leave);
  timeline.addEventListener("pointermove", (event) => {
    follow(cursor, panel, timeline, event);
    const cell = panel.contains(event.target) ? heatmap.cellUnder(panel, event) : null;
    tip.hidden = !cell;
    if (!cell) return;
    place(tip, event);
    const here = `${cell.row.label} ${cell.start} ${cell.isName}`;
    if (here === at) return;
    at = here;
    clearTimeout(resting);
    fill(tip, cell);
    if (cell.isName) return;
    resting = setTimeout(async () => {
      const known = await more(cell).catch(() => null);
      if (known && here === at) fill(tip, cell, known);
    }, REST);
  });
}

function follow(cursor, panel, timeline, { clientX }) {
  const { xaxis } = panel._fullLayout ?? {};
  if (!xaxis) return;
  const left = panel.getBoundingClientRect().x + xaxis._offset;
  cursor.hidden = clientX < left || clientX > left + xaxis._length;
  cursor.style.left = `${clientX - timeline.getBoundingClientRect().x}px`;
}

function place(tip, { clientX, clientY }) {
  const isRight = clientX > window.innerWidth / 2;
  const isLow = clientY > window.innerHeight / 2;
  tip.style.translate = `${isRight ? "-100%" : "0"} ${isLow ? "-100%" : "0"}`;
  tip.style.left = `${clientX + (isRight ? -14 : 14)}px`;
  tip.style.top = `${clientY + (isLow ? -14 : 14)}px`;
}

function fill(tip, cell, known) {
  const many = cell.row.columns.length > 1 ? `, ${cell.row.columns.length} parameters` : "";
  if (cell.isName) return tip.replaceChildren(element("b", {}, cell.row.label + many));
  const steps = cell.start === cell.stop ? `step ${cell.start}` : `steps ${cell.start} to ${cell.stop}`;
  tip.replaceChildren(
    element("b", {}, cell.row.label + many),
    element("span", {}, `${steps}: ${heatmap.described(cell)}`),
    element("span", {}, known ? inWords(known) : " "),
    sparkline(cell));
}

// What became of one gradient at one step.
export function inWords({ parameter, step, before, after, times, clipped, skipped }) {
  if (Number(before) < 0) return `${parameter} has no gradient at step ${step}`;
  const number = (value) => (Number.isFinite(Number(value ?? NaN)) ? short(Number(value), 4) : "not finite");
  const what = skipped ? "skipped" : clipped ? "clipped" : "not clipped";
  const relative = times === null || !Number.isFinite(Number(times)) ? "" : `${number(times)} × its median, `;
  return `before ${number(before)}, after ${skipped ? "none" : number(after)}; ${relative}${what}`;
}

// The whole row as a line, exact zeros at its bottom, with a mark at the cell.
function sparkline({ line, bin }) {
  const finite = [...line].filter((value) => value > -100);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const x = (i) => (((i + 0.5) / line.length) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 3 - (Math.max(0, value - low) / (high - low || 1)) * (HEIGHT - 6)).toFixed(1);
  let path = "";
  line.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    const isJoined = i > 0 && !Number.isNaN(line[i - 1]);
    path += isJoined ? `L${x(i)} ${y(value)}` : `M${x(i)} ${y(value)}h0`;
  });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.innerHTML = `<path d="${path}"/><line x1="${x(bin)}" x2="${x(bin)}" y1="0" y2="${HEIGHT}"/>`;
  return svg;
}
