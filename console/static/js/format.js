// Numbers, times and amounts as text. Pure: the reader's language decides how they are written, the unit is always there.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { notation: 'compact', maximumSignificantDigits: 3 });
const three = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const percents = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 0 });
const percents1 = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 1 });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const dayTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });
const minuteTime = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const day = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', timeZone: 'UTC' });

/** What stands where nothing is known. */
export const NONE = '–';

/** @param {number} n a count, in full: "12,345" */
export const count = (n) => (Number.isFinite(n) ? whole.format(n) : NONE);

/** @param {number} n a count or an amount, short: "12.3K" */
export const compact = (n) => (!Number.isFinite(n) ? NONE : Math.abs(n) < 1000 ? three.format(n) : short.format(n));

/** @param {number} perSecond a rate without its unit: "0", "0.4", "12.3", "4.1K" */
export function rate(perSecond) {
  if (!Number.isFinite(perSecond)) return NONE;
  if (perSecond === 0) return '0';
  return perSecond < 0.05 ? '<0.1' : perSecond < 100 ? (Math.round(perSecond * 10) / 10).toLocaleString() : compact(perSecond);
}

/** @param {number} fraction 0 to 1, as a percentage; small ones with a decimal */
export function percent(fraction) {
  if (!Number.isFinite(fraction)) return NONE;
  return fraction > 0 && fraction < 0.1 ? percents1.format(fraction) : percents.format(fraction);
}

/** @param {number} s seconds as a length of time: "840 µs", "12 ms", "1.24 s", "3 min 5 s" */
export function duration(s) {
  if (!Number.isFinite(s)) return NONE;
  if (s < 0) return `-${duration(-s)}`;
  if (s === 0) return '0 ms';
  if (s < 0.001) return `${Math.round(s * 1e6)} µs`;
  if (s < 0.01) return `${(s * 1000).toLocaleString(undefined, { maximumFractionDigits: 1 })} ms`;
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toLocaleString(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 })} s`;
  if (s < 60) return `${s.toLocaleString(undefined, { maximumFractionDigits: 1 })} s`;
  return span(s);
}

/** @param {number} s seconds as a coarse length of time: "45 s", "3 min 5 s", "2 h 10 min", "4 d 3 h" */
export function span(s) {
  if (!Number.isFinite(s)) return NONE;
  const n = Math.max(0, Math.round(s));
  if (n < 60) return `${n} s`;
  const [units, sizes] = [['d', 'h', 'min', 's'], [86400, 3600, 60, 1]];
  const i = sizes.findIndex((size) => n >= size);
  const big = Math.floor(n / sizes[i]);
  const small = Math.floor((n % sizes[i]) / sizes[i + 1]);
  return small ? `${big} ${units[i]} ${small} ${units[i + 1]}` : `${big} ${units[i]}`;
}

/** @param {string|Date} t a time of the day, with seconds */
export const clock = (t) => (known(t) ? clockTime.format(new Date(t)) : NONE);

/** @param {string|Date} t a time of the day, to the minute */
export const minute = (t) => (known(t) ? minuteTime.format(new Date(t)) : NONE);

/** @param {string|Date} t date and time of the day */
export const moment = (t) => (known(t) ? dayTime.format(new Date(t)) : NONE);

/** @param {string} t a day of the ledger, which is one of UTC: "2026-11-23" */
export const utcDay = (t) => (known(t) ? day.format(new Date(t)) : NONE);

/** @param {string|Date} t how long ago that is, at `now` in milliseconds */
export function ago(t, now = Date.now()) {
  if (!known(t)) return NONE;
  const s = (now - new Date(t).getTime()) / 1000;
  return s < 1.5 ? 'just now' : `${span(s)} ago`;
}

/** Whether a time of the API says anything: Go's zero time does not. */
export function known(t) {
  if (t === undefined || t === null || t === '') return false;
  const ms = t instanceof Date ? t.getTime() : Date.parse(t);
  return Number.isFinite(ms) && ms > -6e13;
}

const symbols = new Map();

/**
 * Money of decimal text. Amounts of single requests are small: digits are kept until two of them say something.
 * @param {string} amount "0.0001234"
 * @param {string} [currency] ISO 4217, or a name that somebody made up
 */
export function money(amount, currency = '') {
  if (amount === undefined || amount === null || amount === '') return NONE;
  const n = Number(amount);
  if (!Number.isFinite(n)) return String(amount);
  const size = Math.abs(n);
  const digits = size === 0 || size >= 1 ? 2 : Math.min(9, 1 - Math.floor(Math.log10(size)) + (size < 0.1 ? 0 : 1));
  const key = `${currency}/${digits}`;
  if (!symbols.has(key)) {
    const options = { minimumFractionDigits: Math.min(2, digits), maximumFractionDigits: digits };
    let f = new Intl.NumberFormat(undefined, options);
    try {
      if (currency) f = new Intl.NumberFormat(undefined, { ...options, style: 'currency', currency, currencyDisplay: 'narrowSymbol' });
    } catch {
      const plain = f; // a currency that no standard knows: its name follows the number
      f = { format: (v) => `${plain.format(v)} ${currency}` };
    }
    symbols.set(key, f);
  }
  return symbols.get(key).format(n);
}

/** @param {number} n bytes: "1.2 KiB" */
export function bytes(n) {
  if (!Number.isFinite(n)) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i ? three.format(n) : whole.format(n)} ${units[i]}`;
}

/** @param {string} id "namespace/name" without the namespace that is the default */
export const shortID = (id) => (id ?? '').replace(/^default\//, '');

/** @param {number} n @param {string} one @param {string} [many] "1 endpoint", "3 endpoints" */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
