// Weights and gradients by epoch.
import { STATISTICS } from "./constants.js";
import { heightOf } from "./full.js";
import { fitted, plain } from "./names.js";
import { line } from "./series.js";
import { axis, config, lineOf, logAxis, titled } from "./theme.js";

export function draw(panel, { epochs: x, names, values }, statistic, among) {
  const { texts } = fitted(names, 160);
  const traces = names.map((_, i) => line(x, values[i], { name: plain(texts[i]), ...lineOf(i) }));
  const few = names.length < among ? `; ${names.length} of ${among} parameters` : "";
  const { label, log } = STATISTICS[statistic];
  const look = titled("Weights and gradients by epoch", `${label}${few}`, {
    height: heightOf(panel, 330),
    hovermode: "x unified",
    xaxis: axis("end of epoch; -1 is before training", { range: [x[0] - 0.5, x.at(-1) + 0.5] }),
    yaxis: log ? logAxis("", traces, 6) : axis("mean"),
  });
  return Plotly.react(panel, traces, look, config("epochs"));
}
