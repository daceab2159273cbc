// Numbers as people read them.

// 12.34 and 1.098e+21: all digits up to a million, powers of ten beyond.
export function short(value, digits) {
  const rounded = Number(value.toPrecision(digits));
  const isFar = rounded !== 0 && (Math.abs(rounded) >= 1e6 || Math.abs(rounded) < 1e-4);
  return isFar ? value.toExponential(digits - 1) : `${rounded}`;
}
