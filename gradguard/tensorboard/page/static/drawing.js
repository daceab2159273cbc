// Everything that is drawn of the runs, the verdict first and the heatmap second.
import * as controls from "./controls.js";
import * as data from "./data.js";
import * as epochs from "./epochs.js";
import * as heatmap from "./heatmap.js";
import { plotly } from "./loading.js";
import { inWords } from "./pointer.js";
import * as profile from "./profile.js";
import { grouped, outlined, selected, understood, written } from "./rows.js";
import * as strips from "./strips.js";
import { RIGHT } from "./theme.js";
import * as tools from "./tools.js";
import * as verdict from "./verdict.js";
import { resolved } from "./view.js";

const BINS = 1000;
const BELOW = 46; // pixels under the heatmap that its readout takes
const TALL = 1000; // a window with room for the selected parameter as well
const MORE = 160;

const by = (id) => document.getElementById(id);

// Draws unless something newer is; returns what there is to say.
export async function draw(shown, { redraw, isNewest, listen }) {
  const [{ summary }] = shown;
  const look = resolved(summary);
  by("about").textContent = about(summary);
  verdict.show(by("verdict"), summary, redraw);
  performance.mark("gradguard-verdict");
  controls.show(summary, look);
  tools.show(by("tools"), look);
  const columns = selected(summary, look);
  document.body.dataset.matches = columns.length > 0;
  if (!columns.length) return understood(look.filter).fault ?? "No parameter has a name that matches.";
  makeRoom(shown);
  const groups = grouped(summary, columns, look.group);
  const library = plotly();
  library.catch(() => {}); // said where it is awaited, if it still is by then
  const plan = heatmap.planned(by("heatmap"), groups, look, roomFor(by("heatmap"), remarks(summary)));
  await heatmap.draw(by("heatmap"), shown[0], plan, look, { plotly: library, isNewest });
  if (!isNewest()) return "";
  performance.mark("gradguard-heatmap");
  by("caption").textContent = heatmap.caption(plan, look);
  await drawLines(shown, columns, look, plan.left, isNewest);
  if (!isNewest()) return "";
  listen();
  return remarks(summary);
}

// What has nothing to show takes no place.
function makeRoom(shown) {
  const clips = ({ summary }) => summary.clip_fraction > 0 || summary.clips.some(({ text }) => text);
  by("loss").hidden = !shown.some(({ summary }) => summary.has_loss);
  by("coefficient").hidden = !shown.some(clips);
  by("by-epoch").hidden = !shown[0].summary.epochs;
}

// As it will be when nothing is left of what was said while the page read.
function roomFor(panel, remark) {
  const status = by("status");
  const passing = remark ? 0 : status.offsetHeight && status.offsetHeight + parseFloat(getComputedStyle(status).marginBottom);
  const above = panel.getBoundingClientRect().y + document.scrollingElement.scrollTop - passing;
  return window.innerHeight - above - BELOW - (window.innerHeight < TALL ? 0 : MORE);
}

async function drawLines(shown, columns, look, left, isNewest) {
  const { summary } = shown[0];
  const { start, stop, step, parameter } = look;
  const window = { start, stop, bins: BINS };
  const ask = (runs, question) => Promise.all(runs.map(async (one) => ({ ...one, ...(await question(one)) })));
  const inside = shown.filter((one) => one.summary.start <= stop && one.summary.stop >= start);
  const having = inside.filter((one) => one.summary.names.includes(parameter));
  const first = shown[0].source;
  const bins = Math.max(50, Math.floor((by("events").clientWidth - left - RIGHT) / 2));
  const lines = outlined(summary, columns);
  const [totals, events, parameters, profiles, cell, byEpoch] = await Promise.all([
    ask(inside, ({ source }) => data.chart("totals", source, window)),
    data.chart("events", first, { ...window, bins }),
    ask(having, ({ source }) => data.chart("parameter", source, { ...window, parameter })),
    ask(shown, ({ source }) => data.chart("profile", source, { step })),
    data.chart("cell", first, { step, parameter }),
    summary.epochs && data.chart("epochs", first, { rows: written([{ columns: lines }]), statistic: look.statistic }),
  ]);
  if (!isNewest()) return;
  by("readout").textContent = inWords(cell);
  await Promise.all([
    strips.loss(by("loss"), totals, look, left),
    strips.totals(by("totals"), totals, look, left),
    strips.events(by("events"), events, look, left),
    strips.parameter(by("parameter-chart"), parameters, look, left),
    strips.coefficient(by("coefficient"), totals, look, left),
    profile.draw(by("profile"), profiles, columns, summary.names),
    byEpoch && epochs.draw(by("epochs"), byEpoch, look.statistic, columns.length),
  ]);
}

function about({ names, recorded, clips }) {
  const clip = clips.at(-1).text || "no clip";
  return `${names.length} tensors  ·  ${recorded} steps  ·  ${clip}`;
}

function remarks({ writes, writes_read, left_out }) {
  const sampled = `This run is too large to read at once: a random ${writes_read} of its ${writes} writes are shown.`;
  return [writes === writes_read ? "" : sampled, left_out].filter(Boolean).join(" ");
}
