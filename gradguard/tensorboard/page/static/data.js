// What the server knows, asked for.
import { INF_CELL, MISSING_CELL, PER_DECADE, ZERO_CELL } from "./constants.js";

const AGAIN = "trying again.";
const SOURCES_SECONDS = 25; // a list of names takes no longer where a server is alive

// What may be well the next time: the server is away, or has not read the run yet.
export class Passing extends Error {}

export const silent = () => new Passing(`TensorBoard does not answer; ${AGAIN}`);
const broken = () => new Passing(`TensorBoard's answer broke off; ${AGAIN}`);

async function ask(route, parameters, options) {
  const url = new URL(route, import.meta.url);
  url.search = new URLSearchParams(parameters);
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw silent();
  }
  if (!response.ok) throw await refused(response);
  return response;
}

// A server that is in the way of TensorBoard answers in HTML, which is no sentence.
async function refused(response) {
  const plain = response.headers.get("content-type")?.startsWith("text/plain");
  const text = plain ? await response.text().catch(() => "") : "";
  if (text && response.status === 404) return new Passing(text);
  if (text && response.status < 500) return new Error(text);
  return new Passing(`TensorBoard answers with error ${response.status}; ${AGAIN}`);
}

async function json(route, parameters, options) {
  const response = await ask(route, parameters, options);
  try {
    return await response.json();
  } catch {
    throw broken();
  }
}

const of = (source, more) => ({ run: source.run, optimizer: source.optimizer, ...more });

export async function sources() {
  const signal = AbortSignal.timeout(SOURCES_SECONDS * 1000);
  const found = (await json("sources", {}, { signal, cache: "no-store" })).sources;
  for (const source of found) {
    source.key = source.optimizer ? `${source.run} (${source.optimizer})` : source.run;
  }
  return found;
}

export const summary = (source) => json("summary", of(source));

export const peak = (source, where) => json("peak", of(source, where));

// The numbers of a chart, by its name in gradguard/tensorboard/page/lines.py.
export const chart = (name, source, where) => json(name, of(source, where));

// The heatmap's cells: decades (NaN where there is nothing to show) and, apart, where a
// gradient was NaN or Inf.
export async function heat(source, where, rowCount) {
  const response = await ask("heat", of(source, where));
  const bytes = await response.arrayBuffer().catch(() => { throw broken(); });
  const bins = bytes.byteLength / (8 + 2 * rowCount);
  if (!Number.isInteger(bins)) throw broken();
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
