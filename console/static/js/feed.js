// The requests that the stream tells of, newest first. A bounded list: the server keeps the rest.
import { batch, signal } from './lib.js';

/** How many ended requests are kept in the page. */
export const KEPT = 1000;

/** Makes an empty feed. */
export function newFeed() {
  return {
    running: signal([]),
    recent: signal([]),
    /** Requests that ended and were not told one by one, since the page was opened. */
    skipped: signal(0),
  };
}

/** Puts lists of ended requests together: newest first, none twice. */
export function merge(fresh, old, most = KEPT) {
  const seen = new Set();
  const out = [];
  for (const r of [...fresh, ...old]) {
    if (seen.has(r.id)) continue;
    seen.add(r.id);
    out.push(r);
  }
  out.sort((a, b) => end(b) - end(a));
  return out.slice(0, most);
}

/** When a request ended, in milliseconds. */
export const end = (r) => Date.parse(r.at) + r.durationSeconds * 1000;

/** Takes a NewRequests of the stream. */
export function applyRequests(feed, n) {
  batch(() => {
    feed.running.value = n.running;
    if (n.requests.length > 0) feed.recent.value = merge(n.requests, feed.recent.value);
    if (n.skipped > 0) feed.skipped.value += n.skipped;
  });
}

/**
 * Whether a request is one of those that are asked for. Text is looked for in everything that names it.
 * @param {object} r @param {{route?: string, backend?: string, tenant?: string, cache?: string, status?: string, q?: string}} f
 */
export function matches(r, f) {
  if (f.route && r.route !== f.route) return false;
  if (f.backend && r.backend !== f.backend) return false;
  if (f.tenant && r.tenant !== f.tenant) return false;
  if (f.cache && r.cache !== f.cache) return false;
  if (f.status && !statusMatches(r, f.status)) return false;
  if (f.q) {
    const q = f.q.toLowerCase();
    return [r.requestId, r.id, r.model, r.consumer, r.tenant, r.route, r.backend, r.endpoint, r.traceId, r.reason, r.operation, r.purpose, String(r.status)]
      .some((v) => v?.toLowerCase().includes(q));
  }
  return true;
}

function statusMatches(r, want) {
  if (/^[1-5]xx$/.test(want)) return String(r.status)[0] === want[0];
  if (/^\d+$/.test(want)) return String(r.status) === want;
  return r.outcome === want;
}
