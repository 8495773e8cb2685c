// What is known of one client, route, backend, endpoint or other dependency.
import { html, useMemo } from '../lib.js';
import * as f from '../format.js';
import { backendState, endpointLevel, endpointState, endpointWord, fullWeight, healthLevel, isSteered, routeWeights } from '../model.js';
import { link, setParams } from '../router.js';
import { model } from '../stream.js';
import { Badge, Bar, Copyable, Scroll, fullness } from '../ui/parts.js';
import { Drawer } from '../ui/drawer.js';
import { FailureHistory } from './history.js';
import { edgesAt } from './shown.js';

const close = () => setParams({ node: '' });

/** The drawer of the node that the address names. @param {{node: string}} p "kind:id" */
export function Details({ node }) {
  const i = node.indexOf(':');
  const kind = node.slice(0, i);
  const id = node.slice(i + 1);
  const s = model.structure.value;
  if (!s) return null;
  const views = { client: Client, route: Route, backend: Backend, endpoint: Endpoint };
  const View = views[kind] ?? Other;
  const title = kind === 'endpoint' ? id.slice(id.indexOf('|') + 1) : f.shortID(id);
  return html`<${Drawer} eyebrow=${kind[0].toUpperCase() + kind.slice(1)} title=${title} of=${node} onClose=${close}><${View} id=${id} node=${node} s=${s} /><//>`;
}

const Gone = ({ what }) => html`<section><p>${what} is not part of the gateway any more.</p></section>`;

function Client({ id, s }) {
  const c = s.clients.find((x) => x.id === id);
  if (!c) return html`<section><p>This client has not been seen in the last five minutes.</p></section>`;
  const known = id !== '-/-';
  return html`
    <section><h3 class="sr">About</h3><dl class="kv">
      ${known ? html`<dt>Consumer</dt><dd>${c.consumer}</dd><dt>Tenant</dt><dd>${c.tenant}</dd>` : html`<dt>Who</dt><dd>Everybody who was refused, or let in without a credential.</dd>`}
      <dt>Last request</dt><dd>${f.moment(c.lastSeen)}</dd></dl></section>
    <${Traffic} title="Traffic" rows=${[['To', 'client', 'from', id, 'to', 'route']]} />
    ${known && html`<section><h3>More</h3><p class="row wrap"><a href=${link('requests', '', { tenant: c.tenant })}>Requests of this tenant</a><a href=${link('usage', '', { tenant: c.tenant })}>Its usage and budgets</a></p></section>`}`;
}

function Route({ id, s }) {
  const r = s.routes.find((x) => x.id === id);
  const live = routeWeights(model, id).value;
  if (!r) return html`<${Gone} what="This route" />`;
  return html`
    <section><h3>Matches</h3>
      ${r.matches.length > 0 ? html`<ul class="plain">${r.matches.map((m) => html`<li key=${m}>${m}</li>`)}</ul>` : html`<p>Every request.</p>`}
      ${r.requiredScopes?.length > 0 && html`<p>The credential needs ${r.requiredScopes.map((x) => html`<code key=${x}>${x}</code> `)}</p>`}</section>
    <section><h3>Backends and weights</h3><${Scroll} label="Backends and weights"><table class="table"><caption class="sr">Backends of the route with their weights</caption>
      <thead><tr><th scope="col">Backend</th><th scope="col" class="n">Priority</th><th scope="col" class="n">Weight</th><th scope="col" class="n">Now</th></tr></thead>
      <tbody>${r.backends.map((b, i) => html`<${Target} key=${i} b=${b} live=${live?.[i] ?? b.liveWeight} />`)}</tbody></table><//></section>
    <${Traffic} title="Traffic" rows=${[['From', 'client', 'to', id, 'from', 'client'], ['To', 'route', 'from', id, 'to', 'backend']]} />
    <section><h3>More</h3><p><a href=${link('requests', '', { route: id })}>Requests of this route</a></p></section>`;
}

function Target({ b, live }) {
  const state = backendState(model, b.backend).value;
  return html`<tr><th scope="row"><a href=${link('topology', '', { node: `backend:${b.backend}` })}>${f.shortID(b.backend)}</a>${b.model && html`<br /><span class="quiet">as ${b.model}</span>`}
    ${state?.why && html`<br /><span class="quiet">${state.why}</span>`}</th>
    <td class="n">${b.priority}</td><td class="n">${f.count(b.weight)}</td><td class="n">${live === undefined || live === null ? html`<span class="quiet">not steered</span>` : f.compact(live)}</td></tr>`;
}

function Backend({ id, node, s }) {
  const b = s.backends.find((x) => x.id === id);
  const state = backendState(model, id).value;
  if (!b) return html`<${Gone} what="This backend" />`;
  return html`
    <section><h3>State</h3>
      <p class="row wrap"><${Badge} level=${healthLevel(state?.health)} dot>${state?.health ?? 'unknown'}<//>${state?.why && html`<span>${state.why}</span>`}</p>
      <dl class="kv num"><dt>In flight</dt><dd>${f.count(state?.inFlight)}</dd><dt>Waiting at Weir</dt><dd>${f.count(state?.waiting)}</dd>
        <dt>Share of its weight</dt><dd>${f.percent(state?.share)}</dd></dl></section>
    <section><h3>About</h3><dl class="kv"><dt>Dialect</dt><dd>${b.dialect}</dd>${b.host && html`<dt>Host</dt><dd><${Copyable} text=${b.host} label="host" /></dd>`}
      <dt>Models</dt><dd>${b.models.length > 0 ? b.models.join(', ') : 'any'}</dd>
      <dt>Steering</dt><dd>${b.steered ? `${b.policy ? f.shortID(b.policy) : 'yes'}${b.picking ? `; ${b.picking} picks the endpoint` : ''}` : 'none'}</dd>
      <dt>Endpoints</dt><dd class="num">${f.count(b.endpoints.length)}</dd></dl></section>
    <${Traffic} title="Traffic" rows=${[['From', 'route', 'to', id, 'from', 'route']]} />
    <${FailureHistory} id=${node} />
    <section><h3>More</h3><p><a href=${link('requests', '', { backend: id })}>Requests of this backend</a></p></section>`;
}

const signals = [
  ['GPU', 'gpu', true], ['GPU memory', 'gpuMemory', true], ['KV cache', 'kvCache', true], ['Queue', 'queue', false], ['Running', 'running', false],
];

function Endpoint({ id, node, s }) {
  const e = endpointState(model, id).value;
  const backend = id.slice(0, id.indexOf('|'));
  const exists = s.backends.some((b) => b.id === backend && b.endpoints.some((x) => x.id === id));
  if (!exists) return html`<${Gone} what="This endpoint" />`;
  const told = signals.filter(([, key]) => e?.[key] !== undefined);
  return html`
    <section><h3>State</h3>
      <p class="row wrap"><${Badge} level=${endpointLevel(e)} dot>${endpointWord(e)}<//>${e?.breaker === 'Closed' && html`<span class="quiet">breaker closed</span>`}</p>
      ${e?.why && html`<p>${e.why}</p>`}
      <dl class="kv num"><dt>Backend</dt><dd><a href=${link('topology', '', { node: `backend:${backend}` })}>${f.shortID(backend)}</a></dd>
        <dt>In flight</dt><dd>${f.count(e?.inFlight)}</dd>
        <dt>TTFT</dt><dd>${e?.ttftSeconds > 0 ? f.duration(e.ttftSeconds) : 'not measured'}</dd>
        <dt>Failed lately</dt><dd>${e?.errorRate === undefined ? 'not known' : f.percent(e.errorRate)}</dd>
        ${e?.blockedUntil && html`<dt>Asked to wait</dt><dd>until ${f.clock(e.blockedUntil)} (it answered 429)</dd>`}</dl></section>
    ${isSteered(e) && html`<section><h3>Weight, and why</h3>
      <p class="num weights"><span><b>${f.count(fullWeight(e))}</b> full</span> → <span><b>${f.count(e.weight)}</b> now</span> → <span><b>${f.count(e.publishedWeight)}</b> in Envoy</span></p>
      ${e.reasons?.length > 0
        ? html`<${Scroll} label="Reasons"><table class="table"><caption class="sr">Rules that change the weight</caption><thead><tr><th scope="col">Rule</th><th scope="col" class="n">Factor</th><th scope="col">Why</th></tr></thead>
          <tbody>${e.reasons.map((r, i) => html`<tr key=${i}><th scope="row">${r.rule}</th><td class="n">× ${f.compact(r.factor)}</td><td>${r.text}</td></tr>`)}</tbody></table><//>`
        : html`<p class="quiet">${e.weight === fullWeight(e) ? 'No rule changes it.' : e.why}</p>`}</section>`}
    ${(told.length > 0 || e?.signalError) && html`<section><h3>What it says of itself</h3>
      ${e.signalError && html`<p class="error-box">${e.signalError}</p>`}
      <dl class="kv meters num">${told.map(([name, key, part]) => html`<dt key=${key}>${name}</dt><dd>${part ? html`<span>${f.percent(e[key])}</span><${Bar} value=${e[key]} level=${key === 'kvCache' ? fullness(e[key]) : ''} />` : f.plural(Math.round(e[key]), 'request')}</dd>`)}</dl></section>`}
    <${Traffic} title="Traffic" rows=${[['From', 'backend', 'to', id, 'from', 'backend']]} />
    <${FailureHistory} id=${node} />`;
}

/** Redis, Envoy, an issuer and so on: a history is all there is. */
const Other = ({ node }) => html`<${FailureHistory} id=${node} />`;

/** The edges of a node as a table. @param {{title: string, rows: [string, string, 'from'|'to', string, 'from'|'to', string][]}} p */
function Traffic({ title, rows }) {
  const tick = model.tick.value;
  const lists = useMemo(() => rows.map(([, kind, end, id]) => edgesAt(kind, end, id)), [tick, JSON.stringify(rows)]);
  const found = rows.flatMap(([word, , , , other, kind], i) => lists[i].map((e) => ({ word, other, kind, r: e.value })))
    .filter((x) => x.r.requestsPerSecond + x.r.errorsPerSecond + x.r.inFlight > 0);
  return html`<section><h3>${title}, last ten seconds</h3>${found.length === 0 ? html`<p class="quiet">No requests.</p>` : html`<${Scroll} label="Traffic"><table class="table">
    <caption class="sr">Rates between this and its neighbours</caption>
    <thead><tr><th scope="col">Neighbour</th><th scope="col" class="n">Req/s</th><th scope="col" class="n">${rows.some(([, kind]) => kind === 'client') ? 'Failed or refused/s' : 'Failed/s'}</th><th scope="col" class="n">Tok/s</th><th scope="col" class="n">In flight</th></tr></thead>
    <tbody>${found.slice(0, 30).map(({ word, other, kind, r }) => html`<tr key=${`${word} ${r[other]}`}><th scope="row"><span class="quiet">${word}</span> <a href=${link('topology', '', { node: `${kind}:${r[other]}` })}>${f.shortID(r[other])}</a></th>
      <td class="n">${f.rate(r.requestsPerSecond)}</td><td class=${`n ${r.errorsPerSecond > 0 ? 'failed' : ''}`}>${f.rate(r.errorsPerSecond)}</td><td class="n">${f.rate(r.tokensPerSecond)}</td><td class="n">${f.count(r.inFlight)}</td></tr>`)}</tbody></table><//>`}</section>`;
}
