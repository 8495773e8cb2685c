// Which parts of the topology are shown: the filter, and how much of long lists.
import { computed, signal } from '../lib.js';
import { edgeRates, endpointLevel, endpointState, healthLevel, backendState } from '../model.js';
import { model } from '../stream.js';

/** What the reader looks for, and whether only trouble is shown. */
export const filter = signal({ q: '', trouble: false });

/** Rises when parts of the page have moved, so that edges are drawn anew. */
export const moved = signal(0);

const has = (q, ...texts) => texts.some((t) => t?.toLowerCase().includes(q));

const LIMIT = 12;

/** Lists that are shown in full, by their name. */
export const full = signal(new Set());
export function toggleFull(name) {
  const next = new Set(full.value);
  if (!next.delete(name)) next.add(name);
  full.value = next;
}

/** How many requests somebody sends or gets. Read without following: lists are put in order when something moved, not each second. */
const busy = (edges) => edges.reduce((sum, s) => sum + s.peek().requestsPerSecond + s.peek().inFlight, 0);

/** Clients, routes and pools as the filter leaves them: {clients, moreClients, routes, moreRoutes, pools}. */
export const shown = computed(() => {
  const s = model.structure.value;
  if (!s) return null;
  void model.tick.value;
  const { trouble } = filter.value;
  const q = filter.value.q.trim().toLowerCase();

  const failing = (kind, id, end) => [...model.edges].some(([, e]) => {
    const r = e.peek();
    return r.kind === kind && r[end] === id && r.errorsPerSecond > 0;
  });
  const clients = s.clients.filter((c) => (!q || has(q, c.tenant, c.consumer)) && (!trouble || failing('client', c.id, 'from')));
  const routes = s.routes.filter((r) => (!q || has(q, r.id, ...r.matches)) && (!trouble || failing('client', r.id, 'to') || failing('route', r.id, 'from')));
  const pools = s.backends.map((b) => {
    const own = !q || has(q, b.id, b.host, b.dialect, ...b.models);
    let endpoints = own ? b.endpoints : b.endpoints.filter((e) => has(q, e.address));
    const bad = healthLevel(backendState(model, b.id).peek()?.health);
    if (trouble) {
      const ill = endpoints.filter((e) => /bad|warn/.test(endpointLevel(endpointState(model, e.id).peek())));
      if (ill.length > 0 || !/bad|warn/.test(bad)) endpoints = ill;
    }
    return { ...b, endpoints, all: b.endpoints.length, keep: (own || endpoints.length > 0) && (!trouble || /bad|warn/.test(bad) || endpoints.length > 0) };
  }).filter((p) => p.keep);

  return { ...cut('clients', clients), ...cut('routes', byTraffic(routes)), pools };
});

function cut(name, list) {
  const more = Math.max(0, list.length - LIMIT);
  return { [name]: more && !full.value.has(name) ? list.slice(0, LIMIT) : list, [`${name}Of`]: list.length };
}

/** A long list begins with what is busy; a short one stays as it is written. */
function byTraffic(routes) {
  if (routes.length <= LIMIT) return routes;
  const weight = new Map(routes.map((r) => [r.id, busy(r.backends.map((b) => edgeRates(model, 'route', r.id, b.backend)))]));
  return [...routes].sort((a, b) => weight.get(b.id) - weight.get(a.id));
}

/** The rates of several edges together. @param {{value: object}[]} edges signals */
export function sum(edges) {
  const out = { requestsPerSecond: 0, errorsPerSecond: 0, tokensPerSecond: 0, inFlight: 0 };
  for (const e of edges) for (const k of Object.keys(out)) out[k] += e.value[k];
  return out;
}

/** Signals of the edges that end, or begin, somewhere. @param {'from'|'to'} end */
export function edgesAt(kind, end, id) {
  void model.tick.value;
  const out = [];
  for (const s of model.edges.values()) {
    const e = s.peek();
    if (e.kind === kind && e[end] === id) out.push(s);
  }
  return out;
}
