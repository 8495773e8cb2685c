// The endpoints of a backend. A few are rows; of many those that need a look are, with a map of all, and the full list on demand.
import { html, signal, useComputed, useEffect, useMemo, useRef } from '../lib.js';
import * as f from '../format.js';
import { edgeRates, endpointLevel, endpointState, endpointWord, isSteered, weightPart } from '../model.js';
import { go } from '../router.js';
import { model } from '../stream.js';
import { colour, theme } from '../theme.js';
import { Bar, Dot, fullness } from '../ui/parts.js';
import { VirtualList } from '../ui/virtual.js';
import { NodeName } from './nodes.js';
import { LINES } from './edges.js';
import { full, moved, toggleFull } from './shown.js';

/** How many rows of a large pool are shown at first. */
const FIRST = 6;
const ROW = 34;

/** The columns that an endpoint may have: what nobody reports takes no place. */
const columns = [
  { id: 'weight', head: 'Weight', about: 'Weight that Envoy has, as a part of the full weight', has: isSteered, cell: Weight },
  { id: 'gpu', head: 'GPU', about: 'Utilization of the GPU', has: (e) => e.gpu !== undefined, cell: ({ e }) => Part(e.gpu, '') },
  { id: 'memory', head: 'Mem', about: 'Used memory of the GPU', has: (e) => e.gpuMemory !== undefined, cell: ({ e }) => Part(e.gpuMemory, '') },
  { id: 'kv', head: 'KV', about: 'Used cache of keys and values', has: (e) => e.kvCache !== undefined, cell: ({ e }) => Part(e.kvCache, fullness(e.kvCache)) },
  { id: 'queue', head: 'Queue', about: 'Requests that wait there', has: (e) => e.queue !== undefined, cell: ({ e }) => (e.queue === undefined ? f.NONE : f.compact(e.queue)) },
  { id: 'flight', head: 'Flight', about: 'Requests in flight', has: () => true, cell: ({ e, r }) => f.count(Math.max(e.inFlight, r.inFlight)) },
  { id: 'ttft', head: 'TTFT', about: 'Time to the first token', has: (e) => e.ttftSeconds > 0, cell: ({ e }) => (e.ttftSeconds > 0 ? f.duration(e.ttftSeconds) : f.NONE) },
  { id: 'rate', head: 'Req/s', about: 'Requests a second', has: () => true, cell: ({ r }) => html`<span class=${r.errorsPerSecond > 0 ? 'failed' : ''}>${f.rate(r.requestsPerSecond)}</span>` },
];

function Weight({ e }) {
  const part = weightPart(e);
  return html`<span class=${part < 0.75 ? 'changed' : ''}>${f.percent(part)}</span>`;
}

const Part = (v, level) => (v === undefined ? f.NONE : html`<span class="part"><span>${f.percent(v)}</span><${Bar} value=${v} level=${level} /></span>`);

/** @param {{p: object}} p a backend with the endpoints that the filter leaves */
export function Pool({ p }) {
  const endpoints = p.endpoints;
  const name = `pool ${p.id}`;
  const all = full.value.has(name);
  const large = endpoints.length > LINES;
  // Which columns there are is looked up in the first ones, and is a text: the pool is drawn again only when it changes.
  const key = useComputed(() => {
    const first = (model.structure.value?.backends.find((b) => b.id === p.id)?.endpoints ?? []).slice(0, 8).map((e) => endpointState(model, e.id).value).filter(Boolean);
    return columns.filter((c) => first.some((e) => c.has(e))).map((c) => c.id).join(' ');
  }).value;
  const cols = useMemo(() => columns.filter((c) => key.split(' ').includes(c.id)), [key]);
  useEffect(() => { moved.value++; }, [all, endpoints.length]);
  if (endpoints.length === 0) {
    return html`<div class="pool"><p class="none">${p.all > 0 ? 'No endpoint matches the filter.' : p.host ? html`Envoy resolves <b>${p.host}</b>; its addresses appear with the first request.` : 'No endpoints.'}</p></div>`;
  }
  const row = (e, i) => html`<${Row} key=${e.id} e=${e} backend=${p.id} cols=${cols} index=${i} of=${endpoints.length} />`;
  return html`<div class=${`pool n${cols.length} ${large ? 'large' : ''}`} role="group" aria-label=${`Endpoints of ${f.shortID(p.id)}`}>
    ${large && html`<${Summary} p=${p} />`}
    <div class="heads" aria-hidden="true"><span /><span>Endpoint</span>${cols.map((c) => html`<span key=${c.id} class=${`n x-${c.id}`} title=${c.about}>${c.head}</span>`)}</div>
    ${large && all
      ? html`<${VirtualList} items=${endpoints} height=${ROW} most=${420} label=${`All endpoints of ${f.shortID(p.id)}`} row=${row} />`
      : html`<ul class="rows">${(large ? attention(endpoints) : endpoints).map(row)}</ul>`}
    ${large && html`<button type="button" class="button small quiet" aria-expanded=${String(all)} onClick=${() => toggleFull(name)}>
      ${all ? 'Show those that need a look' : `Show all ${f.count(endpoints.length)}`}</button>`}
  </div>`;
}

/** The first rows of a large pool: trouble first, then as written. Put in order when something changes its level, not each second. */
function attention(endpoints) {
  void model.tick.value;
  const order = { bad: 0, warn: 1, ok: 2, idle: 3 };
  return endpoints
    .map((e, i) => [order[endpointLevel(endpointState(model, e.id).peek())], i, e])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1]).slice(0, FIRST).map(([, , e]) => e);
}

function Row({ e, backend, cols, index, of }) {
  const state = endpointState(model, e.id).value;
  const rates = edgeRates(model, 'backend', backend, e.id).value;
  const level = endpointLevel(state);
  const word = endpointWord(state);
  return html`<li class=${`row-e ${level}`} data-node=${`endpoint:${e.id}`} aria-setsize=${of} aria-posinset=${index + 1}>
    <${Dot} level=${level} />
    <span class="who"><${NodeName} node=${`endpoint:${e.id}`} cls="mono">${e.address}<//><span class=${level === 'ok' ? 'sr' : `word ${level}`}>${word}</span></span>
    ${cols.map((c) => html`<span key=${c.id} class=${`n x-${c.id}`}><span class="sr">${c.head} </span>${state ? c.cell({ e: state, r: rates }) : f.NONE}</span>`)}
  </li>`;
}

const CELL = 8;
const GAP = 2;

/** How many endpoints are well, and a map with a square for each. */
function Summary({ p }) {
  const endpoints = p.endpoints;
  void model.tick.value;
  const by = { ok: 0, warn: 0, bad: 0, idle: 0 };
  const levels = endpoints.map((e) => endpointLevel(endpointState(model, e.id).peek()));
  for (const l of levels) by[l]++;
  const words = { bad: 'out', warn: 'reduced', ok: 'well', idle: 'idle' };
  return html`<div class="summary" data-node=${`pool:${p.id}`}>
    <p class="num"><b>${f.plural(endpoints.length, 'endpoint')}</b>${Object.keys(words).filter((l) => by[l] > 0).map((l) => html`<span key=${l} class="tally"><${Dot} level=${l} /> ${f.count(by[l])} ${words[l]}</span>`)}</p>
    <${EndpointMap} endpoints=${endpoints} levels=${levels} />
  </div>`;
}

const hovered = signal('');

function EndpointMap({ endpoints, levels }) {
  const canvas = useRef(null);
  const per = useRef(1);
  const draw = () => {
    const c = canvas.current;
    if (!c) return;
    const width = c.parentElement.clientWidth;
    const columns = (per.current = Math.max(1, Math.floor((width + GAP) / (CELL + GAP))));
    const rows = Math.ceil(endpoints.length / columns);
    const scale = devicePixelRatio || 1;
    c.width = width * scale;
    c.height = (rows * (CELL + GAP) - GAP) * scale;
    c.style.height = `${rows * (CELL + GAP) - GAP}px`;
    const ink = Object.fromEntries(['ok', 'warn', 'bad', 'idle'].map((l) => [l, colour(`--${l}`)]));
    const g = c.getContext('2d');
    g.scale(scale, scale);
    levels.forEach((l, i) => {
      g.globalAlpha = l === 'ok' ? 0.55 : l === 'idle' ? 0.4 : 1;
      g.fillStyle = ink[l];
      g.fillRect((i % columns) * (CELL + GAP), Math.floor(i / columns) * (CELL + GAP), CELL, CELL);
    });
  };
  const key = levels.map((l) => l[0]).join('');
  useEffect(draw, [key, endpoints.length, theme.value]);
  useEffect(() => {
    const seen = new ResizeObserver(draw);
    seen.observe(canvas.current.parentElement);
    return () => seen.disconnect();
  });
  const under = (ev) => {
    const x = Math.floor(ev.offsetX / (CELL + GAP));
    return x < per.current ? endpoints[Math.floor(ev.offsetY / (CELL + GAP)) * per.current + x] : undefined;
  };
  // The list says the same to those who use no pointer.
  return html`<div class="map" aria-hidden="true"><canvas ref=${canvas} title=${hovered.value}
    onMouseMove=${(ev) => {
      const e = under(ev);
      hovered.value = e ? `${e.address}: ${endpointWord(endpointState(model, e.id).peek())}` : '';
    }}
    onClick=${(ev) => {
      const e = under(ev);
      if (e) go('topology', '', { node: `endpoint:${e.id}` });
    }} /></div>`;
}
