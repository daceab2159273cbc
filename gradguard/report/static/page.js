"use strict";

const pictures = JSON.parse(document.getElementById("pictures").textContent);
const places = document.querySelectorAll(".picture");

function theme() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  return { ink: color("--ink"), grid: color("--grid") };
}

// Plotly reads markup in its texts.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

function layout({ title, x, y, range, ticks }, { ink, grid }) {
  const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid };
  return {
    title: { text: plain(title), x: 0, xref: "paper", font: { size: 13 } },
    font: { color: ink, size: 11 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    modebar: { orientation: "v", bgcolor: "transparent", color: grid, activecolor: ink },
    margin: { l: 60, r: 10, t: 40, b: 50 },
    hovermode: "closest",
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    xaxis: {
      ...axis,
      title: { text: x, standoff: 8 },
      automargin: true,
      ...(ticks.length && { tickvals: ticks.map((_, i) => i), ticktext: ticks.map(plain) }),
    },
    yaxis: {
      ...axis,
      title: { text: y },
      type: range ? "log" : "linear",
      exponentformat: "power",
      ...(range && { range }),
    },
  };
}

// A line without a colour has that of the text.
function traces(lines, { ink }) {
  return lines.map(({ name, line, marker, ...rest }) => ({
    ...rest,
    name: plain(name),
    line: { ...line, color: line.color || ink },
    marker: { ...marker, color: marker.color || ink },
  }));
}

async function draw() {
  const colors = theme();
  const buttons = ["toImage", "zoom2d", "pan2d", "autoScale2d", "resetScale2d"];
  const options = { responsive: true, displaylogo: false, modeBarButtons: [buttons] };
  await Promise.all(
    pictures.map(
      (picture, i) =>
        picture &&
        Plotly.react(places[i], traces(picture.traces, colors), layout(picture, colors), options)
          .then(Plotly.Plots.resize),
    ),
  );
  document.body.dataset.state = "drawn";
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
matchMedia("print").addEventListener("change", draw);
