// What the topology is now. The structure changes rarely and is one signal; the state of each node and edge has a signal of its own,
// so that a second with ten changes draws ten nodes again, and not a thousand.
import { batch, signal } from './lib.js';

const NO_RATES = Object.freeze({ requestsPerSecond: 0, errorsPerSecond: 0, tokensPerSecond: 0, inFlight: 0 });

/** The key of an edge. */
export const edgeKey = (kind, from, to) => `${kind} ${from} ${to}`;

/** Steering counts in thousandths: an endpoint of base weight 1 that nothing is against has the weight 1,000. */
const SCALE = 1000;

/** Whether steering weighs an endpoint. @param {object|null} e an EndpointState */
export const isSteered = (e) => ['Active', 'WarmingUp', 'Isolated'].includes(e?.status);

/** The weight that an endpoint has when nothing speaks for or against it. */
export const fullWeight = (e) => e.baseWeight * SCALE;

/** The part of its full weight that Envoy has for an endpoint: 1 where nothing is against it, more where it is the quickest. */
export const weightPart = (e) => (e.baseWeight > 0 ? e.publishedWeight / fullWeight(e) : 1);

/** Below this part an endpoint is worth a look: small differences are the daily work of steering. */
const REDUCED = 0.75;

/**
 * What an endpoint is, in one of four levels that have a colour and a shape: ok, warn, bad, idle.
 * @param {object|null} e an EndpointState
 */
export function endpointLevel(e) {
  if (!e) return 'idle';
  if (e.breaker === 'Open' || e.status === 'Isolated' || e.status === 'down') return 'bad';
  if (e.breaker && e.breaker !== 'Closed') return 'warn';
  if (e.status === 'WarmingUp' || e.status === 'degraded' || e.blockedUntil || e.signalError) return 'warn';
  if (e.status === 'Active') return weightPart(e) < REDUCED ? 'warn' : 'ok';
  return e.status === 'ok' ? 'ok' : 'idle';
}

/** The same in a word or two. @param {object|null} e */
export function endpointWord(e) {
  if (!e) return 'unknown';
  if (e.breaker === 'Open') return 'breaker open';
  if (e.breaker === 'HalfOpen') return 'breaker half open';
  if (e.breaker === 'WarmingUp') return 'warming up';
  if (e.blockedUntil) return 'rate limited';
  const word = { Isolated: 'isolated', WarmingUp: 'warming up' }[e.status];
  if (word) return word;
  if (e.status !== 'Active') return e.status || 'unknown';
  return weightPart(e) < REDUCED ? 'reduced' : 'active';
}

/** The same of a backend or a dependency. */
export const healthLevel = (health) => ({ ok: 'ok', degraded: 'warn', down: 'bad', idle: 'idle' })[health] ?? 'idle';

/** The same of an edge: by the part of its requests that fail. */
export function edgeLevel(r) {
  if (!r || r.requestsPerSecond + r.errorsPerSecond === 0) return r?.inFlight ? 'run' : 'idle';
  const part = r.errorsPerSecond / Math.max(r.requestsPerSecond, r.errorsPerSecond);
  return part >= 0.1 ? 'bad' : part > 0 ? 'warn' : 'ok';
}

/** What errors of an edge are: those of clients are also requests that Weir refused. @param {string} kind of the edge */
export const failedWord = (kind) => (kind === 'client' ? 'failed or refused' : 'failed');

/** Makes an empty model. */
export function newModel() {
  return {
    /** Clients, routes, backends and endpoints without their states; null until the first topology has come. */
    structure: signal(null),
    totals: signal(null),
    /** When the gateway said the last of it. */
    at: signal(null),
    backends: new Map(),
    endpoints: new Map(),
    edges: new Map(),
    weights: new Map(),
    /** Rises when an endpoint has another level or an edge appears: what sorts and counts looks at it. */
    tick: signal(0),
  };
}

function put(map, key, value) {
  const s = map.get(key);
  if (s) s.value = value;
  else map.set(key, signal(value));
}

/** The signal of a key, made where nothing is known yet. */
function at(map, key, none) {
  let s = map.get(key);
  if (!s) map.set(key, (s = signal(none)));
  return s;
}

/** State signals of single things. */
export const backendState = (m, id) => at(m.backends, id, null);
export const endpointState = (m, id) => at(m.endpoints, id, null);
export const edgeRates = (m, kind, from, to) => at(m.edges, edgeKey(kind, from, to), NO_RATES);
export const routeWeights = (m, id) => at(m.weights, id, null);

/** Takes a Topology: it replaces all that was known. */
export function applyTopology(m, t) {
  batch(() => {
    const keep = { backends: new Set(), endpoints: new Set(), edges: new Set() };
    for (const b of t.backends) {
      keep.backends.add(b.id);
      put(m.backends, b.id, { health: b.health, why: b.why, share: b.share, inFlight: b.inFlight, waiting: b.waiting });
      for (const e of b.endpoints) {
        keep.endpoints.add(e.id);
        put(m.endpoints, e.id, e);
      }
    }
    for (const e of t.edges) {
      keep.edges.add(edgeKey(e.kind, e.from, e.to));
      put(m.edges, edgeKey(e.kind, e.from, e.to), e);
    }
    for (const r of t.routes) put(m.weights, r.id, r.backends.map((b) => b.liveWeight ?? null));
    for (const id of m.backends.keys()) if (!keep.backends.has(id)) m.backends.delete(id);
    for (const id of m.endpoints.keys()) if (!keep.endpoints.has(id)) m.endpoints.delete(id);
    for (const [key, s] of m.edges) if (!keep.edges.has(key)) s.value = NO_RATES;
    m.totals.value = t.totals;
    m.at.value = t.at;
    m.structure.value = {
      version: t.version, gateways: t.gateways, clients: t.clients, routes: t.routes,
      backends: t.backends.map((b) => ({ ...b, endpoints: b.endpoints.map(({ id, address }) => ({ id, address })) })),
    };
    m.tick.value++;
  });
}

/** Takes a Live: what has changed since. */
export function applyLive(m, l) {
  batch(() => {
    let moved = false;
    for (const e of l.edges) {
      const s = at(m.edges, edgeKey(e.kind, e.from, e.to), NO_RATES);
      moved ||= s.value.requestsPerSecond === 0 !== (e.requestsPerSecond === 0);
      s.value = e;
    }
    for (const b of l.backends) put(m.backends, b.id, b);
    for (const e of l.endpoints) {
      const s = at(m.endpoints, e.id, null);
      moved ||= endpointLevel(s.value) !== endpointLevel(e);
      s.value = e;
    }
    for (const r of l.routes) put(m.weights, r.id, r.liveWeights);
    m.totals.value = l.totals;
    m.at.value = l.at;
    const now = m.structure.value;
    if (now && l.clients.length > 0) {
      const fresh = new Set(l.clients.map((c) => c.id));
      m.structure.value = { ...now, clients: [...l.clients, ...now.clients.filter((c) => !fresh.has(c.id))].slice(0, 200) };
    }
    if (moved) m.tick.value++;
  });
}
