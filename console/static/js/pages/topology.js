// Who asks whom, how much, and how it goes: clients, routes, backends and endpoints, with the lines between them.
import { html, useEffect, useRef } from '../lib.js';
import * as f from '../format.js';
import { mergeEvents } from '../events.js';
import { healthLevel } from '../model.js';
import { link, place, setParams } from '../router.js';
import { events, model, pulse } from '../stream.js';
import { Top } from '../ui/top.js';
import { Ago, Badge, Empty } from '../ui/parts.js';
import { Chart } from '../ui/chart.js';
import { Column, BackendNode, ClientNode, RouteNode } from '../topology/nodes.js';
import { Details } from '../topology/details.js';
import { Edges } from '../topology/edges.js';
import { Events, history, useHistory } from '../topology/history.js';
import { Pool } from '../topology/pool.js';
import { filter, shown } from '../topology/shown.js';

/** The page. */
export function Topology() {
  const { node, q = '', trouble } = place.value.params;
  useEffect(() => { filter.value = { q, trouble: trouble === '1' }; }, [q, trouble]);
  const s = model.structure.value;
  return html`
    <${Top} title="Topology" sub=${s && html`configuration <code>${s.version.slice(0, 12)}</code>`} />
    ${!s ? html`<${Empty} title="Waiting for the gateway…" />` : html`
      <div class="live-data">
        <${Totals} />
        <${Filter} q=${q} trouble=${trouble === '1'} />
        <${Picture} />
      </div>
      <${Below} />
      ${node && html`<${Details} node=${node} />`}`}`;
}

/** The gateway as a whole. */
function Totals() {
  const t = model.totals.value;
  const money = Number(t.costPerHour) > 0 ? f.money(t.costPerHour, t.currency) : f.NONE;
  return html`<dl class="tiles" aria-label="The gateway now">
    <div><dt>Requests</dt><dd>${f.rate(t.requestsPerSecond)} <small>/s</small></dd></div>
    <div><dt>Failed or refused</dt><dd class=${t.errorsPerSecond > 0 ? 'bad' : ''}>${f.rate(t.errorsPerSecond)} <small>/s</small></dd></div>
    <div><dt>In flight</dt><dd>${f.count(t.inFlight)}</dd></div>
    <div><dt>Tokens</dt><dd>${f.rate(t.tokensPerSecond)} <small>/s</small></dd></div>
    <div><dt>Time to first token</dt><dd>${t.ttftSeconds > 0 ? f.duration(t.ttftSeconds) : f.NONE}</dd></div>
    <div><dt>Cost</dt><dd>${money} <small>/h</small></dd></div>
  </dl>`;
}

function Filter({ q, trouble }) {
  const s = shown.value;
  return html`<div class="toolbar" role="search" aria-label="Topology">
    <input type="search" class="input grow" aria-label="Filter by name, model or address" placeholder="Filter by name, model or address" value=${q} onInput=${(e) => setParams({ q: e.target.value })} />
    <button type="button" class="button" aria-pressed=${String(trouble)} onClick=${() => setParams({ trouble: trouble ? '' : '1' })}>Only trouble</button>
    <span class="end num">${s && `${f.plural(s.pools.length, 'backend')}, ${f.plural(s.pools.reduce((n, p) => n + p.endpoints.length, 0), 'endpoint')}`}</span>
  </div>`;
}

function Picture() {
  const root = useRef(null);
  const s = shown.value;
  const filtered = filter.value.q || filter.value.trouble;
  return html`<div class="topo" ref=${root}>
    <${Edges} root=${root} />
    <${Column} name="clients" title="Clients" none=${filtered ? 'None match.' : 'Nobody has asked in the last five minutes.'} card=${(c) => html`<${ClientNode} key=${c.id} c=${c} />`} />
    <${Column} name="routes" title="Routes" none=${filtered ? 'None match.' : 'There are no routes.'} card=${(r) => html`<${RouteNode} key=${r.id} r=${r} />`} />
    <section class="col pools" aria-labelledby="col-pools">
      <h2 id="col-pools" class="pair"><span>Backends <span class="quiet num">${f.count(s.pools.length)}</span></span><span>and their endpoints</span></h2>
      ${s.pools.length === 0 && html`<p class="none">${filtered ? 'None match.' : 'There are no backends.'}</p>`}
      <ul class="pairs">${s.pools.map((p) => html`<li class="pair" key=${p.id}><${BackendNode} b=${p} /><${Pool} p=${p} /></li>`)}</ul>
    </section>
  </div>`;
}

/** Under the picture: the last minutes, everything that Weir depends on, and what happened lately. */
function Below() {
  return html`<div class="grid below">
    <${Pulse} /><${Dependencies} /><${Recent} />
  </div>`;
}

function Pulse() {
  const p = pulse.value;
  const times = p.map((x) => x.at);
  const last = p.at(-1);
  return html`<section class="panel" aria-labelledby="pulse"><header><h2 id="pulse">Requests a second</h2><span class="sub">since this page was opened, at most five minutes</span></header>
    <div class="body live-data">${p.length < 2 ? html`<p class="quiet">The chart begins with the next seconds.</p>` : html`<${Chart} times=${times} height=${150} tick=${(t) => f.clock(new Date(t * 1000))} format=${f.rate}
      text=${`Requests a second: ${f.rate(last.requests)} now, at most ${f.rate(Math.max(...p.map((x) => x.requests)))} in the last ${f.span(last.at - p[0].at)}; failed or refused: ${f.rate(last.errors)} now`}
      series=${[{ label: 'Requests', c: 'c1', kind: 'area', values: p.map((x) => x.requests) }, { label: 'Failed or refused', c: 'c-bad', values: p.map((x) => x.errors) }]} />`}</div>
  </section>`;
}

/** How many dependencies are listed: those in trouble come first. */
const LISTED = 12;

function Dependencies() {
  useHistory();
  const h = history.value;
  // Endpoints are in the picture; here they appear once they are in trouble.
  const list = (h?.dependencies ?? []).filter((d) => d.kind !== 'endpoint' || d.state === 'down' || d.state === 'degraded');
  return html`<section class="panel" aria-labelledby="deps"><header><h2 id="deps">Dependencies</h2><span class="sub">failures of the last hour</span></header>
    <div class="body">${!h ? html`<p class="quiet">Loading…</p>` : list.length === 0 ? html`<p class="quiet">Nothing has been asked yet.</p>` : html`<ul class="deps">${list.slice(0, LISTED).map((d) => html`<li key=${d.id}>
      <${Badge} level=${healthLevel(d.state)} dot>${d.state}<//>
      <span class="who"><a href=${link('topology', '', { node: d.id })}>${d.name.slice(d.name.indexOf('|') + 1).replace(/^default\//, '')}</a> <span class="quiet">${d.kind}${d.kind === 'endpoint' && ` of ${f.shortID(d.name.slice(0, d.name.indexOf('|')))}`}</span>${d.why && d.state !== 'ok' && html`<br /><span class="quiet">${d.why}</span>`}</span>
      <span class="n num quiet">${f.plural(d.failures.slice(-60).reduce((a, b) => a + b, 0), 'failure')}</span>
    </li>`)}</ul>${list.length > LISTED && html`<p class="quiet">and ${f.count(list.length - LISTED)} more</p>`}`}</div>
  </section>`;
}

function Recent() {
  const h = history.value;
  const list = mergeEvents(events.value, h?.events ?? []).slice(0, 8);
  return html`<section class="panel" aria-labelledby="recent"><header><h2 id="recent">Latest events</h2>${h && html`<span class="sub">Weir was started <${Ago} at=${h.since} /></span>`}</header>
    <div class="body">${list.length > 0 ? html`<${Events} list=${list} label="Latest events" who most=${8} />` : html`<p class="quiet">Nothing has happened.</p>`}</div>
  </section>`;
}
