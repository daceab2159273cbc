// What the server knows, asked for.
import { INF_CELL, MISSING_CELL, PER_DECADE, ZERO_CELL } from "./constants.js";

async function ask(route, parameters) {
  const url = new URL(route, import.meta.url);
  url.search = new URLSearchParams(parameters);
  const response = await fetch(url);
  if (!response.ok) throw new Error(await response.text());
  return response;
}

const json = async (route, parameters) => (await ask(route, parameters)).json();

const of = (source, more) => ({ run: source.run, optimizer: source.optimizer, ...more });

export async function sources() {
  const found = (await json("sources", {})).sources;
  for (const source of found) {
    source.key = source.optimizer ? `${source.run} (${source.optimizer})` : source.run;
  }
  return found;
}

export async function summary(source) {
  const known = await json("summary", of(source));
  known.worst = known.worst.map(Number);
  return known;
}

export const peak = (source, where) => json("peak", of(source, where));

// The numbers of a chart, by its name in gradguard/tensorboard/page/lines.py.
export const chart = (name, source, where) => json(name, of(source, where));

// The heatmap's cells: decades (NaN where there is nothing to show) and, apart, where a
// gradient was NaN or Inf.
export async function heat(source, where, rowCount) {
  const bytes = await (await ask("heat", of(source, where))).arrayBuffer();
  const bins = bytes.byteLength / (8 + 2 * rowCount);
  const cells = new Int16Array(bytes, 8 * bins);
  const decades = [];
  const nonfinite = [];
  let [low, high, anyNonfinite] = [Infinity, -Infinity, false];
  for (let row = 0; row < rowCount; row++) {
    const values = new Float32Array(bins).fill(NaN);
    const flags = new Float32Array(bins).fill(NaN);
    for (let bin = 0; bin < bins; bin++) {
      const cell = cells[row * bins + bin];
      if (cell >= INF_CELL) flags[bin] = 1;
      else if (cell === ZERO_CELL) values[bin] = -100;
      else if (cell !== MISSING_CELL) {
        values[bin] = cell / PER_DECADE;
        low = Math.min(low, values[bin]);
        high = Math.max(high, values[bin]);
      }
      anyNonfinite ||= cell >= INF_CELL;
    }
    decades.push(values);
    nonfinite.push(flags);
  }
  const steps = Array.from(new Float64Array(bytes, 0, bins));
  return { steps, decades, nonfinite, anyNonfinite, low, high };
}
