// The band at the top: what is wrong, where, since when, and what to do.
import { element } from "./elements.js";
import { shortened } from "./names.js";
import { short } from "./numbers.js";
import { roving } from "./roving.js";
import { changeFinding, findings, view } from "./view.js";

const ICONS = { error: "✕", warning: "!", note: "i", good: "✓" };

export function show(band, summary, redraw) {
  const found = findings(summary);
  const at = found[view.finding] ? view.finding : 0;
  const hadFocus = band.contains(document.activeElement);
  band.dataset.severity = found[at].severity;
  band.replaceChildren(
    headline(found[at]),
    ...[toDo(found[at])].filter(Boolean),
    footer(found, at, summary, redraw),
  );
  roving(band);
  if (hadFocus) band.querySelector("[aria-current=true]")?.focus();
}

function headline({ severity, text, why, with_it: kinds }) {
  const word = severity === "good" ? "" : severity;
  return element("p", { className: "headline" },
    element("span", { className: "icon", ariaHidden: "true" }, ICONS[severity]),
    element("span", {},
      element("strong", {}, word), word && " ", text, " ",
      element("small", {}, [why, wordsOf(kinds)].filter(Boolean).join(" "))));
}

function wordsOf(kinds) {
  return kinds.length ? `With it: ${kinds.map((kind) => kind.replaceAll("-", " ")).join(", ")}.` : "";
}

function toDo({ do: line, advice, command }) {
  if (!line && !advice && !command) return null;
  return element("p", { className: "do" },
    element("b", {}, "Do: "),
    ...copiable(line),
    ...(line && advice ? [" "] : []),
    element("span", {}, advice),
    ...copiable(command));
}

function copiable(text) {
  if (!text) return [];
  const code = element("code", {}, text);
  const button = element("button", { type: "button", title: `Copy ${text}` }, "copy");
  button.addEventListener("click", () => copy(code, button));
  return [code, button];
}

// Only a page from localhost, or by HTTPS, may write to the clipboard by itself.
async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "press Ctrl-C";
  }
}

function footer(found, at, summary, redraw) {
  const buttons = found.map((finding, i) => tab(finding, i === at, () => redraw(changeFinding(i))));
  return element("div", { className: "findings" },
    element("span", { role: "toolbar", ariaLabel: "Findings" }, ...(found[at].kind || found.length > 1 ? buttons : [])),
    element("span", { className: "facts" }, facts(summary)));
}

function tab({ severity, kind, step, text }, isCurrent, choose) {
  const where = step === null ? "" : ` · step ${step}`;
  const button = element("button", { type: "button", title: text },
    element("span", { className: "icon", ariaHidden: "true" }, ICONS[severity]),
    ` ${kind.replaceAll("-", " ") || "overview"}${where}`);
  button.dataset.severity = severity;
  button.dataset.kind = kind;
  button.ariaCurrent = isCurrent;
  button.addEventListener("click", choose);
  return button;
}

function facts({ clip_fraction, first_nonfinite, largest }) {
  const norm = short(largest.total_before, 3);
  return [
    `clipped ${Number((100 * clip_fraction).toFixed(1))} %`,
    first_nonfinite === null ? "always finite" : `first not finite: step ${first_nonfinite}`,
    `largest total ${norm} at step ${largest.step}, most of it in ${shortened(largest.parameter, 40)}`,
  ].join("  ·  ");
}
