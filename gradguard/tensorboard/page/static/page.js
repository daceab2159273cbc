// What stands on the page before anything is drawn.
import { STATISTICS } from "./constants.js";
import { HELP } from "./keys.js";
import { PICKER } from "./runs.js";

const statistics = Object.entries(STATISTICS)
  .map(([name, { label }]) => `<option value="${name}">${label}</option>`).join("");

export const PAGE = `
  <header>
    ${PICKER}
    <p id="about"></p>
    <input type="search" id="filter" placeholder="/ filter names: a regular expression"
      aria-label="Name matches" spellcheck="false">
  </header>
  <p id="status" role="status">Reading the runs.</p>
  <p id="missing" role="status" hidden></p>
  <section id="verdict" aria-label="Verdict"></section>
  <main>
    <div id="timeline">
      <section id="loss" aria-label="Loss"></section>
      <section id="totals" aria-label="Total gradient norm"></section>
      <section id="events" aria-label="Steps clipped, skipped, not finite"></section>
      <div id="tools" role="toolbar" aria-label="Heatmap"></div>
      <section id="heatmap" tabindex="0" aria-label="Heatmap; arrow keys move the selection"></section>
      <p id="cell">
        <label>Selected <select id="parameter"></select></label>
        <label>step <input type="number" id="step" min="0" step="1"></label>
        <span id="readout"></span>
        <span id="hint">click selects, drag zooms, ? lists the keys</span>
      </p>
      <section id="parameter-chart" aria-label="The selected parameter"></section>
      <section id="coefficient" aria-label="What the clip did"></section>
      <div id="cursor" hidden></div>
    </div>
    <div id="detail">
      <section id="profile" aria-label="Norm by layer at the selected step"></section>
      <div id="by-epoch">
        <label>Statistic <select id="statistic">${statistics}</select></label>
        <section id="epochs" aria-label="Weights and gradients by epoch"></section>
      </div>
    </div>
  </main>
  <div id="tip" hidden></div>
  ${HELP}`;
