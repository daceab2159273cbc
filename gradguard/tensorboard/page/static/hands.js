// What hands do to the charts: click, zoom, and move the selection.
import * as heatmap from "./heatmap.js";
import { selected, written } from "./rows.js";
import { change, changeSelection, showAll } from "./view.js";

const STRIPS = ["loss", "totals", "events", "parameter-chart", "coefficient", "heatmap"];

const by = (id) => document.getElementById(id);

// To be called when the charts are there; the second time it does nothing.
export function listen({ redraw, failed, peak, known }) {
  for (const panel of STRIPS.map(by)) {
    if (!panel.on || panel.dataset.listens) continue;
    panel.dataset.listens = "true";
    panel.on("plotly_relayout", (event) => zoom(event, panel.id === "heatmap") && redraw());
    panel.on("plotly_doubleclick", () => redraw(showAll()));
    if (panel.id === "heatmap") onHeatmap(panel, { redraw, failed, peak, known });
  }
}

function onHeatmap(panel, { redraw, failed, peak, known }) {
  panel.on("plotly_click", async ({ points }) => {
    try {
      const { step, parameter } = await peak(heatmap.cellAt(points[0]));
      redraw(changeSelection({ step, parameter }));
    } catch (error) {
      failed(error);
    }
  });
  panel.addEventListener("keydown", (event) => {
    const moved = known() && beside(event.key, known());
    if (!moved) return;
    event.preventDefault();
    redraw(changeSelection(moved));
  });
}

// What to ask the server of a cell: of all that shares it, the largest is meant.
export const question = ({ row, start, stop, where: { moment, scale } }) =>
  ({ rows: written([row]), start, stop, moment, scale });

// Whether the event was a zoom.
function zoom(event, hasRows) {
  const changes = {};
  if ("xaxis.range[0]" in event) {
    changes.start = Math.max(0, Math.round(event["xaxis.range[0]"]));
    changes.stop = Math.max(changes.start, Math.round(event["xaxis.range[1]"]));
  }
  if (hasRows && "yaxis.range[0]" in event) {
    Object.assign(changes, heatmap.rowsBetween(event["yaxis.range[1]"], event["yaxis.range[0]"]));
  }
  change(changes);
  return Object.keys(changes).length > 0;
}

function beside(key, { summary, look }) {
  const names = selected(summary, look).map((column) => summary.names[column]);
  const at = names.indexOf(look.parameter);
  return {
    ArrowLeft: { step: Math.max(summary.start, look.step - 1) },
    ArrowRight: { step: Math.min(summary.stop, look.step + 1) },
    ArrowUp: { parameter: names[Math.max(0, at - 1)] },
    ArrowDown: { parameter: names[Math.min(names.length - 1, at + 1)] },
  }[key];
}
