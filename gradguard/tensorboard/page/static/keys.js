// What the keyboard does, and the list of it.
import { leave, toggle } from "./full.js";
import { change, changeFinding, findings, showAll, view } from "./view.js";

export const HELP = `
  <dialog id="help" aria-label="Keys">
    <table>
      <tr><th>arrows</th><td>in the heatmap: the step and the parameter before, after</td></tr>
      <tr><th>j k</th><td>next finding, previous</td></tr>
      <tr><th>w s</th><td>zoom in and out</td></tr>
      <tr><th>a d</th><td>earlier and later steps</td></tr>
      <tr><th>0</th><td>all steps and rows; a double click does the same</td></tr>
      <tr><th>/</th><td>filter names</td></tr>
      <tr><th>f</th><td>heatmap on the full page, and back; Esc</td></tr>
      <tr><th>?</th><td>this</td></tr>
    </table>
    <form method="dialog"><button>Close</button></form>
  </dialog>`;

const by = (id) => document.getElementById(id);

// `known()` gives the summary and the view in full of what is drawn, null where nothing is.
export function listen(redraw, known) {
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && leave()) return redraw();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = ACTIONS[event.key];
    const shown = known();
    if (!act || !shown) return;
    event.preventDefault();
    if (act(shown) !== false) redraw();
  });
}

const ACTIONS = {
  j: ({ summary }) => toFinding(summary, 1),
  k: ({ summary }) => toFinding(summary, -1),
  w: ({ look, summary }) => zoom(summary, look, { by: 0.5 }),
  s: ({ look, summary }) => zoom(summary, look, { by: 2 }),
  a: ({ look, summary }) => zoom(summary, look, { shift: -0.25 }),
  d: ({ look, summary }) => zoom(summary, look, { shift: 0.25 }),
  0: () => showAll(),
  "/": () => {
    by("filter").focus();
    return false;
  },
  f: () => {
    toggle(by("heatmap"));
    return false;
  },
  "?": () => {
    by("help").showModal();
    return false;
  },
};

function toFinding(summary, way) {
  const count = findings(summary).length;
  changeFinding((view.finding + way + count) % count);
}

// About the selected step where it is in sight.
function zoom(summary, { start, stop, step }, { by: factor = 1, shift = 0 }) {
  const length = Math.max(1, (stop - start) * factor);
  const isInSight = step >= start && step <= stop;
  const share = isInSight && stop > start ? (step - start) / (stop - start) : 0.5;
  const fixed = start + share * (stop - start);
  const moved = Math.round(fixed - share * length + shift * (stop - start));
  const first = Math.max(summary.start, Math.min(moved, summary.stop - Math.round(length)));
  change({ start: first, stop: Math.min(summary.stop, first + Math.round(length)) });
}
