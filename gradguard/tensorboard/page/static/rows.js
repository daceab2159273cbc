// Which parameters the page shows, in which order, and which of them share a row.

const MOST_LINES = 12;

export function selected(summary, view) {
  const { pattern } = understood(view.filter);
  if (!pattern) return [];
  const byWorst = summary.worst.filter((i) => pattern.test(summary.names[i]));
  const kept = view.top ? byWorst.slice(0, view.top) : byWorst;
  return view.order === "worst" ? kept : kept.sort((a, b) => a - b);
}

// The regular expression, or what is wrong with it.
export function understood(filter) {
  try {
    return { pattern: new RegExp(filter) };
  } catch (error) {
    const [, reason] = error.message.match(/: ([^:]+)$/) ?? [];
    return { fault: `"${filter}" is no regular expression: ${reason ?? error.message}.` };
  }
}

// Few enough to tell their lines apart: weights where there are any, from the first to the
// last.
export function outlined(summary, columns) {
  const weights = columns.filter((column) => !summary.names[column].includes("bias"));
  const among = weights.length ? weights : columns;
  if (among.length <= MOST_LINES) return among;
  const stride = (among.length - 1) / (MOST_LINES - 1);
  return Array.from({ length: MOST_LINES }, (_, i) => among[Math.round(i * stride)]);
}

// A module is a name without its last part; a block ends at the first number: "layers.0"
// of "layers.0.attention.weight".
const moduleOf = (name) => (name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : name);
export const blockOf = (name) => name.match(/^.*?(?:^|\.)\d+(?=\.|$)/)?.[0] ?? moduleOf(name);

export function grouped(summary, columns, by) {
  const groups = new Map();
  for (const column of columns) {
    const name = summary.names[column];
    const label = { module: moduleOf, block: blockOf }[by]?.(name) ?? name;
    if (!groups.has(label)) groups.set(label, { label, columns: [] });
    groups.get(label).columns.push(column);
  }
  return [...groups.values()];
}

// No row is thinner than a pixel: neighbours share one, and the largest of them shows.
export function pooled(groups, pixels) {
  const share = Math.max(1, Math.ceil(groups.length / pixels));
  if (share === 1) return groups;
  const rows = [];
  for (let i = 0; i < groups.length; i += share) {
    const together = groups.slice(i, i + share);
    const more = together.length > 1 ? ` +${together.length - 1}` : "";
    rows.push({
      label: together[0].label + more,
      columns: together.flatMap((group) => group.columns),
    });
  }
  return rows;
}

// "0-3;4,6": how the server wants them.
export function written(rows) {
  return rows.map(({ columns }) => spans([...columns].sort((a, b) => a - b))).join(";");
}

function spans(columns) {
  const texts = [];
  for (let i = 0; i < columns.length; i++) {
    const first = columns[i];
    while (columns[i + 1] === columns[i] + 1) i++;
    texts.push(columns[i] === first ? `${first}` : `${first}-${columns[i]}`);
  }
  return texts.join(",");
}
