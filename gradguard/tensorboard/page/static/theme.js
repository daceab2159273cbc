// How every chart looks, light and dark.

export const color = (name) =>
  getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();

// Blue is below the median, red above; the middle is the background.
export const diverging = () => [
  [0, "#2166ac"],
  [0.25, "#5aa0d0"],
  [0.5, color("middle")],
  [0.75, "#ee8a62"],
  [1, "#c4162a"],
];

export const SEQUENTIAL = [
  [0, "#0d0887"],
  [0.25, "#7e03a8"],
  [0.5, "#cc4778"],
  [0.75, "#f89540"],
  [1, "#f0f921"],
];

export function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8 },
    gridcolor: color("grid"),
    linecolor: color("grid"),
    zeroline: false,
    automargin: true,
    ...more,
  };
}

// Rare values far below the others run off the chart rather than flatten it.
export function logAxis(title, traces) {
  const values = traces.flatMap(({ y, yaxis }) => (yaxis ? [] : y)).filter((value) => value > 0);
  values.sort((a, b) => a - b);
  if (!values.length) return axis(title, { type: "log" });
  const low = Math.max(values[0], values[Math.floor(values.length / 10)] / 1000);
  const range = [Math.log10(low) - 0.2, Math.log10(values.at(-1)) + 0.3];
  const decades = range[1] - range[0];
  const dtick = decades > 2 ? Math.ceil(decades / 7) : undefined;
  return axis(title, { type: "log", range, dtick, exponentformat: "power" });
}

export function layout(title, subtitle, more) {
  return {
    title: {
      text: title,
      subtitle: { text: subtitle, font: { size: 12, color: color("muted") } },
      x: 0,
      xref: "container",
      xanchor: "left",
      y: 1,
      yref: "container",
      yanchor: "top",
      pad: { t: 14, l: 12 },
      font: { size: 15, color: color("ink") },
    },
    font: { family: "Roboto, system-ui, sans-serif", size: 12, color: color("ink") },
    paper_bgcolor: color("panel"),
    plot_bgcolor: color("panel"),
    margin: { l: 60, r: 16, t: 66, b: 44 },
    hoverlabel: { font: { size: 12 }, namelength: -1 },
    legend: { orientation: "h", x: 0.5, xanchor: "center", y: 0, yref: "container", yanchor: "bottom" },
    uirevision: "keep",
    ...more,
  };
}

export const config = (name) => ({
  displaylogo: false,
  responsive: true,
  displayModeBar: true,
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "autoScale2d"]],
  toImageButtonOptions: { format: "png", filename: `gradguard-${name}`, scale: 2 },
});
