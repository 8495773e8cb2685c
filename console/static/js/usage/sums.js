// Rows of the ledger as series and sums. Pure.

/** All tokens of a row. */
export const tokensOf = (r) => { const t = r.tokens ?? {}; return (t.input ?? 0) + (t.cacheRead ?? 0) + (t.cacheWrite ?? 0) + (t.output ?? 0) + (t.reasoning ?? 0); };

/** Cost of a row in units of its currency, for drawing and comparing: at most 15 digits of it. */
export const costOf = (r) => (r.costNanos ?? 0) / 1e9;

/** What answers from a cache would have cost, likewise: no part of the cost. */
export const savedOf = (r) => (r.savedCostNanos ?? 0) / 1e9;

/** What can be looked at. */
export const measures = {
  tokens: { label: 'Tokens', of: tokensOf },
  requests: { label: 'Requests', of: (r) => r.requests },
  cost: { label: 'Cost', of: costOf },
  saved: { label: 'Saved', of: savedOf },
};

/**
 * Sums of the rows by a field, greatest first, by the measure. Money of two currencies is not added: it makes two lines.
 * @param {object[]} rows @param {string} field @param {(r: object) => number} of
 */
export function sumBy(rows, field, of) {
  const by = new Map();
  for (const r of rows) {
    const name = r[field] || '';
    const currency = r.currency || '';
    const key = `${name}\u0000${currency}`;
    let s = by.get(key);
    if (!s) by.set(key, (s = { key, name, currency, requests: 0, failed: 0, input: 0, output: 0, cost: 0, saved: 0, estimated: 0, unpriced: 0, value: 0 }));
    const t = r.tokens ?? {};
    s.requests += r.requests;
    s.failed += r.failed ?? 0;
    s.estimated += r.estimated ?? 0;
    s.unpriced += r.unpriced ?? 0;
    s.input += (t.input ?? 0) + (t.cacheRead ?? 0) + (t.cacheWrite ?? 0);
    s.output += (t.output ?? 0) + (t.reasoning ?? 0);
    s.cost += costOf(r);
    s.saved += savedOf(r);
    s.value += of(r);
  }
  return [...by.values()].sort((a, b) => b.value - a.value || a.name.localeCompare(b.name));
}

/** Every day from the first to the last, both included. @param {string} from @param {string} to "2026-11-23" */
export function days(from, to) {
  const out = [];
  for (let t = Date.parse(`${from}T00:00:00Z`); t <= Date.parse(`${to}T00:00:00Z`) && out.length < 1000; t += 86400e3) out.push(new Date(t).toISOString().slice(0, 10));
  return out;
}

/**
 * Series for a chart: the greatest by name, and the rest together.
 * @returns {{name: string, values: number[]}[]}
 */
export function series(rows, field, of, list, most = 7) {
  const index = new Map(list.map((d, i) => [d, i]));
  const names = [...new Set(sumBy(rows, field, of).map((s) => s.name))];
  const own = new Map(names.slice(0, names.length > most ? most - 1 : most).map((n) => [n, list.map(() => 0)]));
  const rest = list.map(() => 0);
  for (const r of rows) {
    const i = index.get(r.day);
    if (i === undefined) continue;
    (own.get(r[field] || '') ?? rest)[i] += of(r);
  }
  const out = [...own].map(([name, values]) => ({ name, values }));
  if (names.length > own.size) out.push({ name: null, values: rest });
  return out;
}

/** How far a counter of a limit is used, 0 to 1. */
export const used = (s) => (s.limit > 0 ? Math.max(0, Math.min(1, (s.limit - s.remaining) / s.limit)) : 0);
