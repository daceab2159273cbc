// Names of parameters and runs, as short as they can be and still be told apart.

const PIXELS = 6.7; // of a letter of 12 px, on average

export const width = (texts) => PIXELS * Math.max(0, ...texts.map((text) => text.length));

// Whole names where they fit; else without what all begin with, which is said once.
export function fitted(names, pixels) {
  if (width(names) <= pixels) return { prefix: "", texts: names };
  const prefix = shared(names);
  const length = Math.max(8, Math.floor(pixels / PIXELS));
  return { prefix, texts: names.map((name) => shortened(name.slice(prefix.length), length)) };
}

// The modules that all names lie in, with the dot: "model.encoder.".
export function shared(names) {
  if (names.length < 2) return "";
  const [first, ...others] = names;
  let length = first.length;
  for (const name of others) {
    let same = 0;
    while (same < length && name[same] === first[same]) same++;
    length = same;
  }
  return first.slice(0, first.lastIndexOf(".", length - 1) + 1);
}

// The end of a name tells parameters apart.
export function shortened(name, length) {
  return name.length <= length ? name : `…${name.slice(1 - length)}`;
}

// Without "version_0" where no other version of the run is there.
export function runNames(keys) {
  const version = /\/version_\d+(?=$| \()/;
  const base = (key) => key.replace(version, "");
  const counts = new Map();
  for (const key of keys) counts.set(base(key), (counts.get(base(key)) ?? 0) + 1);
  return new Map(keys.map((key) => [key, counts.get(base(key)) === 1 ? base(key) : key]));
}

// Plotly reads markup in its texts.
export function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
