/**
 * Functions of doubles that give the same bits everywhere, as `mitai.mpc.reproducible` does: with nothing but sums,
 * products, quotients and roots of two numbers each, which IEEE 754 defines, in the same order. A browser's `Math.exp`
 * is another one in each browser.
 */
const LN2_HIGH = 0.6931471806019545; // times a small integer it is exact
const LN2_LOW = -4.2009150726810846e-11;
const PER_LN2 = Math.LOG2E;
const [EXP_TERMS, LOG_TERMS, ERF_TERMS] = [15, 13, 130];
const FLAT = 6; // erf is 1 from here on
const SINE = [
  -7.647163731819816e-13, 1.6059043836821613e-10, -2.505210838544172e-8, 2.7557319223985893e-6, -0.0001984126984126984,
  0.008333333333333333, -0.16666666666666666, 1,
];
const COSINE = [
  4.779477332387385e-14, -1.1470745597729725e-11, 2.08767569878681e-9, -2.755731922398589e-7, 2.48015873015873e-5,
  -0.001388888888888889, 0.041666666666666664, -0.5,
];

/** The nearest integer, the even one of two. */
export function rint(x: number): number {
  if (!(Math.abs(x) < 2 ** 52)) return x;
  return x < 0 ? x - 2 ** 52 + 2 ** 52 : x + 2 ** 52 - 2 ** 52;
}

const POWERS = powersOfTwo();

/** x · 2^power, rounded once. */
export function ldexp(x: number, power: number): number {
  const most = Math.max(-2046, Math.min(2046, power));
  const first = Math.trunc(most / 2);
  return x * (POWERS[first + 1023] as number) * (POWERS[most - first + 1023] as number);
}

/** 2^−1023 … 2^1023. */
function powersOfTwo(): Float64Array {
  const powers = new Float64Array(2047);
  powers[1023] = 1;
  for (let at = 1; at <= 1023; at++) {
    powers[1023 + at] = (powers[1022 + at] as number) * 2;
    powers[1023 - at] = (powers[1024 - at] as number) / 2;
  }
  return powers;
}

/** The part in [1/2, 1) and the power of two of a positive double. */
export function frexp(x: number): [part: number, power: number] {
  if (x < 2 ** -1022) {
    const [part, power] = frexp(x * 2 ** 64);
    return [part, power - 64];
  }
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, x);
  const top = view.getUint16(0);
  view.setUint16(0, (1022 << 4) | (top & 15));
  return [view.getFloat64(0), (top >> 4) - 1022];
}

export function exp(x: number): number {
  const power = rint(x * PER_LN2);
  const rest = x - power * LN2_HIGH - power * LN2_LOW;
  let total = 1;
  for (let k = EXP_TERMS; k > 0; k--) total = (total * rest) / k + 1;
  return ldexp(total, power);
}

/** The natural logarithm, by the series of the inverse hyperbolic tangent. */
export function log(x: number): number {
  let [part, power] = frexp(x);
  if (part < Math.sqrt(0.5)) [part, power] = [part + part, power - 1];
  const ratio = (part - 1) / (part + 1);
  const square = ratio * ratio;
  let total = 0;
  for (let k = 2 * LOG_TERMS + 1; k > 0; k -= 2) total = total * square + 1 / k;
  return power * LN2_HIGH + (power * LN2_LOW + 2 * ratio * total);
}

export function tanh(x: number): number {
  const small = exp(-2 * Math.abs(x));
  const size = (1 - small) / (1 + small);
  return x < 0 || Object.is(x, -0) ? -size : size;
}

/** The error function, by 2/√π e^(-x²) Σ 2^k x^(2k + 1) / (1 · 3 · 5 … (2k + 1)). */
export function erf(x: number): number {
  const near = Math.max(-FLAT, Math.min(FLAT, x));
  const square = near * near;
  let total = 1;
  for (let k = 2 * ERF_TERMS + 1; k > 1; k -= 2) total = (total * (2 * square)) / k + 1;
  return (2 / Math.sqrt(Math.PI)) * exp(-square) * near * total;
}

/** Cosine and sine of parts of a turn, taken to the next multiple of 2^-32, by Taylor's series around a quarter. */
export function angle(turns: number): [cosine: number, sine: number] {
  const whole = rint((turns - Math.floor(turns)) * 2 ** 32) >>> 0; // a whole turn is 0
  const quarter = ((whole + 2 ** 29) >>> 0) >>> 30;
  const x = ((whole - quarter * 2 ** 30) | 0) * ((2 * Math.PI) / 2 ** 32);
  const y = x * x;
  const series = (terms: readonly number[]) => terms.slice(1).reduce((out, one) => out * y + one, terms[0] as number);
  const [cosine, sine] = [series(COSINE) * y + 1, series(SINE) * x];
  return [
    [cosine, sine],
    [-sine, cosine],
    [-cosine, -sine],
    [sine, -cosine],
  ][quarter] as [number, number];
}
