// Everything that is known of one request: where it went, why, how long each part took, what it cost.
import { html } from '../lib.js';
import * as f from '../format.js';
import { link } from '../router.js';
import { feed } from '../stream.js';
import { Badge, Copyable, Problem, Scroll } from '../ui/parts.js';
import { Drawer } from '../ui/drawer.js';
import { useFetched } from '../ui/fetched.js';
import { FromCache, Outcome, Tokens as TokenCounts } from './table.js';
import { Waterfall } from './waterfall.js';

/** @param {{id: string, onClose: () => void}} p */
export function RequestDetails({ id, onClose }) {
  const running = feed.running.value.some((r) => r.id === id || r.requestId === id);
  // While it runs it is asked for each second, and once more when it has ended.
  const { data: r, error } = useFetched(`api/requests/${encodeURIComponent(id)}`, { every: running ? 1 : 0, again: running });
  const right = r && (r.id === id || r.requestId === id);
  return html`<${Drawer} eyebrow="Request" title=${right ? r.model || r.operation || r.path || 'Request' : 'Request'} of=${id} onClose=${onClose}>
    ${error && html`<section><${Problem}>${error}<//></section>`}
    ${right ? html`<${RequestBody} r=${r} />` : !error && html`<section><p class="quiet">Loading…</p></section>`}
  <//>`;
}

/** The sections about a request, for the drawer and the playground. @param {{r: object}} p a Request */
export function RequestBody({ r }) {
  return html`<${Head} r=${r} /><${Path} r=${r} />
    <section><h3>Time</h3><${Waterfall} r=${r} /></section>
    <${Decision} d=${r.decision} />
    ${r.tried.length > 0 && html`<${Attempts} r=${r} />`}
    <${Tokens} r=${r} /><${IDs} r=${r} />`;
}

function Head({ r }) {
  return html`<section>
    <p class="row wrap"><${Outcome} r=${r} /><${FromCache} r=${r} />${r.purpose && html`<${Badge} title="Weir asked by itself, for this consumer">${r.purpose} by Weir<//>`}${r.stream && html`<${Badge}>stream<//>`}${r.flags.map((x) => html`<${Badge} key=${x}>${x}<//>`)}<span class="quiet num">${f.moment(r.at)}</span></p>
    ${r.reason && html`<p class="reason-long">${r.reason}</p>`}
    <dl class="figures num">
      <div><dt>Duration</dt><dd>${f.duration(r.durationSeconds)}</dd></div>
      <div><dt>First token</dt><dd>${r.ttftSeconds > 0 ? f.duration(r.ttftSeconds) : f.NONE}</dd></div>
      <div><dt>Tokens</dt><dd><${TokenCounts} r=${r} /></dd></div>
      <div><dt>Cost</dt><dd>${r.cost && Number(r.cost) > 0 ? f.money(r.cost, r.currency) : f.NONE}</dd></div>
    </dl></section>`;
}

/** The way of the request, in the columns of the topology. */
function Path({ r }) {
  const client = r.consumer ? `${r.tenant || '-'}/${r.consumer}` : '-/-';
  const steps = [
    ['Client', r.consumer || 'without credential', link('topology', '', { node: `client:${client}` })],
    ['Route', f.shortID(r.route), r.route && link('topology', '', { node: `route:${r.route}` })],
    ['Backend', f.shortID(r.backend), r.backend && link('topology', '', { node: `backend:${r.backend}` })],
    ['Endpoint', r.endpoint, r.endpoint && r.backend && link('topology', '', { node: `endpoint:${r.backend}|${r.endpoint}` })],
  ];
  return html`<section><h3>Path</h3><ol class="path">${steps.map(([what, name, to]) => html`<li key=${what} class=${name ? '' : 'not'}>
    <span class="what">${what}</span>${name ? html`<a href=${to}>${name}</a>` : html`<span>not reached</span>`}</li>`)}</ol></section>`;
}

function Decision({ d }) {
  return html`<section><h3>Decision</h3>
    ${d.steps.length > 0 ? html`<ol class="steps">${d.steps.map((s, i) => html`<li key=${i}>${s}</li>`)}</ol>` : html`<p class="quiet">Nothing was decided.</p>`}
    ${d.candidates.length > 0 && html`<${Scroll} label="Candidates"><table class="table"><caption class="sr">Backends that could serve the request, in the order in which they would be asked</caption>
      <thead><tr><th scope="col">Backend</th><th scope="col">Model there</th><th scope="col" class="n">Weight</th><th scope="col" class="n">Priority</th><th scope="col">Outcome</th></tr></thead>
      <tbody>${d.candidates.map((c, i) => html`<tr key=${i}><th scope="row">${f.shortID(c.backend)}${c.translated && html`<br /><span class="quiet">translated</span>`}</th><td>${c.model}</td><td class="n">${f.count(c.weight)}</td><td class="n">${c.priority}</td>
        <td><${Badge} level=${{ answered: 'ok', failed: 'bad', asked: 'run' }[c.outcome] ?? ''}>${c.outcome}<//></td></tr>`)}</tbody></table><//>`}
    ${d.limits.length > 0 && html`<${Scroll} label="Limits asked"><table class="table"><caption class="sr">Limits that the request was held against, as they stood then</caption>
      <thead><tr><th scope="col">Limit</th><th scope="col" class="n">Left</th><th scope="col" class="n">Of</th><th scope="col" class="n">Resets in</th></tr></thead>
      <tbody>${d.limits.map((l, i) => html`<tr key=${i}><th scope="row">${l.name}<br /><span class="quiet">${l.unit}</span></th><td class="n">${amount(l.remaining, l.unit)}</td><td class="n">${amount(l.limit, l.unit)}</td><td class="n">${l.resetSeconds > 0 ? f.span(l.resetSeconds) : f.NONE}</td></tr>`)}</tbody></table><//>`}
    ${d.endpoints.length > 0 && html`<p class="quiet">Endpoints that Weir named, in order: ${d.endpoints.join(', ')}</p>`}
  </section>`;
}

/** An amount of a limit: money is counted in billionths. */
export const amount = (n, unit) => (unit === 'money' ? f.money(String(n / 1e9)) : f.compact(n));

function Attempts({ r }) {
  return html`<section><h3>Attempts</h3><${Scroll} label="Attempts"><table class="table"><caption class="sr">Requests to backends, in order</caption>
    <thead><tr><th scope="col">#</th><th scope="col">Backend</th><th scope="col">Status</th><th scope="col" class="n">Began</th><th scope="col" class="n">Took</th></tr></thead>
    <tbody>${r.tried.map((a) => html`<tr key=${a.n}><td>${a.n}</td>
      <th scope="row">${f.shortID(a.backend)}${a.endpoint && html`<br /><span class="quiet mono">${a.endpoint}</span>`}${a.reason && html`<br /><span class="failed">${a.reason}</span>`}</th>
      <td><${Badge} level=${a.failed ? 'bad' : a.status ? 'ok' : 'run'} dot>${a.status || (a.failed ? 'failed' : 'running')}<//>${a.flags && html`<br /><code class="quiet">${a.flags}</code>`}</td>
      <td class="n">${f.duration(a.startSeconds)}</td><td class="n">${f.duration(a.durationSeconds)}</td></tr>`)}</tbody></table><//></section>`;
}

function Tokens({ r }) {
  const t = r.tokens;
  if (r.outcome === 'running') return html`<section><h3>Tokens and cost</h3><p class="quiet">Known when the request has ended.</p></section>`;
  const rows = [['Input', t.input], ['Input from the provider’s cache', t.cacheRead], ['Input into the provider’s cache', t.cacheWrite], ['Output', t.output], ['Reasoning', t.reasoning]].filter(([, n], i) => n > 0 || i === 0 || i === 3);
  return html`<section><h3>Tokens and cost</h3><dl class="kv num">${rows.map(([name, n]) => html`<dt key=${name}>${name}</dt><dd>${f.count(n)}</dd>`)}
    <dt>Cost</dt><dd>${r.cost ? `${f.money(r.cost, r.currency)}` : 'not priced'}${r.estimated && ' (an estimate: the provider reported no usage)'}</dd></dl></section>`;
}

function IDs({ r }) {
  return html`<section><h3>More</h3><dl class="kv">
    <dt>Request ID</dt><dd><${Copyable} text=${r.requestId} label="request ID" /></dd>
    <dt>Trace ID</dt><dd><${Copyable} text=${r.traceId} label="trace ID" /></dd>
    <dt>Operation</dt><dd>${[r.dialect, r.operation].filter(Boolean).join(' · ') || f.NONE}</dd>
    ${r.path && html`<dt>Request</dt><dd><code>${r.method} ${r.path}</code></dd>`}
    ${r.caller && html`<dt>Caller</dt><dd><code>${r.caller}</code></dd>`}
    ${r.decision.credential && html`<dt>Credential</dt><dd>${r.decision.credential}</dd>`}
    ${r.decision.version && html`<dt>Configuration</dt><dd><a href=${link('config', 'changes')}><code>${r.decision.version.slice(0, 16)}</code></a></dd>`}
    <dt>Bytes</dt><dd class="num">${f.bytes(r.bytesIn)} in, ${f.bytes(r.bytesOut)} out</dd>
    ${r.envoy && html`<dt>Envoy says</dt><dd><code>${r.envoy}</code>${r.envoyFlags && html` <code>${r.envoyFlags}</code>`}</dd>`}
  </dl></section>`;
}
