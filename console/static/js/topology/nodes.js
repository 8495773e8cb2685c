// Clients, routes and backends: a card each.
import { html, useComputed, useMemo } from '../lib.js';
import * as f from '../format.js';
import { backendState, edgeRates, failedWord, healthLevel, routeWeights } from '../model.js';
import { link, place } from '../router.js';
import { model } from '../stream.js';
import { Badge } from '../ui/parts.js';
import { edgesAt, full, shown, sum, toggleFull } from './shown.js';

/** A name that opens the details; its reach is the whole card. @param {{node: string}} p */
export function NodeName({ node, children, cls = '' }) {
  const open = place.value.params.node === node;
  return html`<a class=${`node-name ${cls}`} href=${link('topology', '', { node })} aria-current=${open ? 'true' : undefined}>${children}</a>`;
}

/** "12.3/s · 0.4 failed/s · 3 in flight", as far as there is something to say. Before a backend is asked, a request can be refused as well. */
function Rates({ r, kind }) {
  const quiet = r.requestsPerSecond === 0 && r.inFlight === 0 && r.errorsPerSecond === 0;
  return html`<p class="rates num">
    ${quiet ? html`<span class="quiet">no traffic</span>` : html`
      <span><b>${f.rate(r.requestsPerSecond)}</b> req/s</span>
      ${r.tokensPerSecond > 0 && html`<span><b>${f.rate(r.tokensPerSecond)}</b> tok/s</span>`}
      ${r.inFlight > 0 && html`<span><b>${f.count(r.inFlight)}</b> in flight</span>`}
      ${r.errorsPerSecond > 0 && html`<span class="failed"><b>${f.rate(r.errorsPerSecond)}</b> ${failedWord(kind)}/s</span>`}`}
  </p>`;
}

/** The traffic of a node: all edges that begin or end there. */
function Traffic({ kind, end, id }) {
  const tick = model.tick.value;
  const edges = useMemo(() => edgesAt(kind, end, id), [kind, end, id, tick]);
  const r = sum(edges);
  return html`<${Rates} r=${r} kind=${kind} />`;
}

/** @param {{c: {id: string, tenant: string, consumer: string}}} p */
export function ClientNode({ c }) {
  const anonymous = c.id === '-/-';
  return html`<li class="node" data-node=${`client:${c.id}`}>
    <p class="title"><${NodeName} node=${`client:${c.id}`}>${anonymous ? 'Without credential' : c.consumer}<//></p>
    ${!anonymous && c.tenant !== c.consumer && html`<p class="about">tenant ${c.tenant}</p>`}
    <${Traffic} kind="client" end="from" id=${c.id} />
  </li>`;
}

/** @param {{r: object}} p a Route of the topology */
export function RouteNode({ r }) {
  return html`<li class="node" data-node=${`route:${r.id}`}>
    <p class="title"><${NodeName} node=${`route:${r.id}`}>${f.shortID(r.id)}<//></p>
    ${r.matches.length > 0 && html`<p class="about" title=${r.matches.join('\n')}>${r.matches[0]}${r.matches.length > 1 && ` (+${r.matches.length - 1})`}</p>`}
    ${r.backends.length > 1 && html`<${Targets} r=${r} />`}
    <${Traffic} kind="client" end="to" id=${r.id} />
  </li>`;
}

/** Weights of a route's targets: as written, and what steering makes of them. */
function Targets({ r }) {
  const live = routeWeights(model, r.id).value;
  const most = 4;
  return html`<ul class="targets num">${r.backends.slice(0, most).map((b, i) => {
    const w = live?.[i] ?? b.liveWeight;
    const changed = w !== undefined && w !== null && Math.round(w) !== b.weight;
    // The weight of a fallback says something only where there are several.
    const alone = r.backends.filter((x) => x.priority === b.priority).length === 1;
    return html`<li key=${`${b.backend} ${b.model}`}><span class="to">${f.shortID(b.backend)}${b.model && html` <span class="quiet">${b.model}</span>`}</span>
      ${b.priority > 0 && html`<span class="quiet">fallback${r.backends.some((x) => x.priority > 1) ? ` ${b.priority}` : ''}</span>`}
      ${!alone && html`<span class=${changed ? 'changed' : ''}><span class="sr">weight </span>${f.count(b.weight)}${changed && html` → ${f.compact(w)}<span class="sr"> now</span>`}</span>`}</li>`;
  })}${r.backends.length > most && html`<li class="quiet">and ${r.backends.length - most} more</li>`}</ul>`;
}

/** Below this share of its weight a backend is worth a word. */
const SHARE = 0.95;

/** @param {{b: object}} p a Backend of the topology */
export function BackendNode({ b }) {
  const state = backendState(model, b.id).value;
  const level = healthLevel(state?.health);
  const routes = useComputed(() => (model.structure.value?.routes ?? []).filter((r) => r.backends.some((t) => t.backend === b.id)).map((r) => r.id).join(' ')).value;
  const edges = useMemo(() => routes.split(' ').filter(Boolean).map((id) => edgeRates(model, 'route', id, b.id)), [routes, b.id]);
  const r = sum(edges);
  return html`<div class=${`node backend ${level}`} data-node=${`backend:${b.id}`}>
    <p class="title"><${NodeName} node=${`backend:${b.id}`}>${f.shortID(b.id)}<//><${Badge} level=${level} dot>${state?.health ?? 'unknown'}<//></p>
    <p class="about">${b.dialect}${b.policy && ` · steered by ${f.shortID(b.policy)}`}</p>
    <${Rates} r=${{ ...r, inFlight: state?.inFlight || r.inFlight }} />
    ${state && (state.waiting > 0 || state.share < SHARE) && html`<p class="rates num">
      ${state.waiting > 0 && html`<span class="waits"><b>${f.count(state.waiting)}</b> waiting</span>`}
      ${state.share < SHARE && html`<span class="waits"><b>${f.percent(state.share)}</b> of its weight</span>`}</p>`}
    ${state?.why && level !== 'ok' && html`<p class=${`why ${level}`}>${state.why}</p>`}
  </div>`;
}

/** A column of cards. @param {{name: string, title: string, none: string}} p */
export function Column({ name, title, none, card }) {
  const s = shown.value;
  const list = s[name];
  const of = s[`${name}Of`];
  return html`<section class=${`col ${name}`} aria-labelledby=${`col-${name}`}>
    <h2 id=${`col-${name}`}>${title} <span class="quiet num">${f.count(of)}</span></h2>
    ${list.length === 0 && html`<p class="none">${none}</p>`}
    <ul class="nodes">${list.map((x) => card(x))}</ul>
    ${of > list.length || full.value.has(name) ? html`<button type="button" class="button small quiet" onClick=${() => toggleFull(name)} aria-expanded=${String(full.value.has(name))}>
      ${full.value.has(name) ? 'Show the busiest only' : `Show all ${f.count(of)}`}</button>` : null}
  </section>`;
}
