// What is configured: whether it is live, what is wrong with it, the objects, and what has changed.
import { html, useEffect, useMemo } from '../lib.js';
import * as f from '../format.js';
import { link, place, go, setParams } from '../router.js';
import { configuration } from '../stream.js';
import { Ago, Badge, Code, Copyable, Diff, Empty, Problem, Select, Tabs } from '../ui/parts.js';
import { Top } from '../ui/top.js';
import { useFetched } from '../ui/fetched.js';

/** The page. */
export function Config() {
  const { id, params } = place.value;
  const again = JSON.stringify(configuration.value);
  const { data, error, reload } = useFetched('api/config', { again });
  const { data: status } = useFetched('api/status', { again, every: 10 });
  // A change that is refused moves no version, so nothing is pushed: the file may have been corrected since.
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) reload(); }, 10_000);
    return () => clearInterval(timer);
  }, []);
  const problems = data?.problems ?? [];
  const errors = problems.filter((p) => p.severity === 'error').length;
  const tabs = [
    { id: 'status', label: 'Status' },
    { id: 'problems', label: 'Problems', count: problems.length, level: errors > 0 ? 'bad' : problems.length > 0 ? 'warn' : '' },
    { id: 'objects', label: 'Objects', count: data?.objects.length ?? 0 },
    { id: 'changes', label: 'Changes', count: data?.changes.length ?? 0 },
  ];
  const at = tabs.some((t) => t.id === id) ? id : 'status';
  const views = { status: Status, problems: Problems, objects: Objects, changes: Changes };
  const View = views[at];
  return html`
    <${Top} title="Configuration" sub=${data && html`version <code>${data.status.serving.slice(0, 12) || 'none'}</code>`} />
    ${error && html`<${Problem}>${error}<//>`}
    <${Tabs} label="Configuration" tabs=${tabs} at=${at} onPick=${(t) => go('config', t, {}, { replace: true })}>
      ${data ? html`<${View} c=${data} status=${status} params=${params} />` : !error && html`<p class="empty">Loading…</p>`}
    <//>`;
}

/** What the versions are up to, in a sentence. */
function live(s, errors) {
  if (s.rejected) return ['bad', 'Envoy refused the last version', s.reason];
  if (!s.serving) return ['bad', 'No configuration is live yet', ''];
  if (errors > 0) return ['warn', 'The files have errors', 'The last configuration without errors is live. See the problems.'];
  if (s.pending) return ['run', 'A version is on its way to Envoy', ''];
  if (!s.envoyConnected) return ['bad', 'Envoy is not connected', 'It serves with the configuration that it had.'];
  return ['ok', 'What is written is live', ''];
}

function Status({ c, status }) {
  const s = c.status;
  const [level, title, text] = live(s, c.problems.filter((p) => p.severity === 'error').length);
  return html`<div class="grid two">
    <section class="panel" aria-labelledby="live"><header><h2 id="live">Versions</h2></header><div class="body stack">
      <p class="row wrap"><${Badge} level=${level} dot>${title}<//>${text && html`<span>${text}</span>`}</p>
      <dl class="kv"><dt>Live</dt><dd>${s.serving ? html`<${Copyable} text=${s.serving} label="version" />` : 'none'}</dd>
        ${f.known(s.since) && html`<dt>Since</dt><dd>${f.moment(s.since)} (<${Ago} at=${s.since} />)</dd>`}
        ${s.pending && html`<dt>On its way</dt><dd><code>${s.pending}</code></dd>`}
        ${s.rejected && html`<dt>Refused by Envoy</dt><dd><code>${s.rejected}</code></dd>`}
        <dt>Envoy</dt><dd>${s.envoyConnected ? 'connected' : html`<span class="failed">not connected</span>`}</dd>
        <dt>Versions in Envoy</dt><dd class="num">${f.count(s.retained)}</dd></dl></div></section>
    ${status && html`<section class="panel" aria-labelledby="around"><header><h2 id="around">What Weir stands on</h2><span class="sub">Weir ${status.version}</span></header><div class="body">
      <table class="table"><caption class="sr">State of what Weir depends on</caption><thead class="sr"><tr><th scope="col">What</th><th scope="col">State</th><th scope="col">About</th></tr></thead><tbody>
        <tr><th scope="row">Ledger</th><td><${Badge} level=${status.ledger.error ? 'bad' : 'ok'} dot>${status.ledger.error ? 'failing' : 'ok'}<//></td><td>${status.ledger.error || html`<code>${status.ledger.folder}</code>`}<br /><span class="quiet num">${f.plural(status.ledger.openRequests, 'request')} open</span></td></tr>
        <${Shared} s=${status.sharedState} />
        ${status.keySets.map((k) => html`<tr key=${k.url}><th scope="row">Signing keys</th><td><${Badge} level=${k.err ? 'bad' : 'ok'} dot>${k.err ? 'failing' : 'ok'}<//></td><td class="any"><code>${k.url}</code><br /><span class="quiet">${k.err || f.plural(k.keys, 'key')}</span></td></tr>`)}
        ${status.externalAuthorization && html`<tr><th scope="row">Authorization server</th><td><${Badge} level=${status.externalAuthorization.error ? 'bad' : 'ok'} dot>${status.externalAuthorization.error ? 'failing' : 'ok'}<//></td><td>${status.externalAuthorization.error || html`<code>${status.externalAuthorization.address}</code>`}</td></tr>`}
      </tbody></table></div></section>
    <section class="panel" aria-labelledby="counts"><header><h2 id="counts">Objects</h2></header><div class="body"><dl class="kv num">
      ${Object.entries(status.objects).filter(([, n]) => n > 0).map(([kind, n]) => html`<dt key=${kind}><a href=${link('config', 'objects', { kind })}>${kind}</a></dt><dd>${f.count(n)}</dd>`)}</dl></div></section>`}
  </div>`;
}

function Shared({ s }) {
  if (!s) return html`<tr><th scope="row">Shared state</th><td><${Badge}>none<//></td><td class="quiet">Limits are counted by this replica alone.</td></tr>`;
  const trouble = s.error || s.problem || s.shippingError;
  return html`<tr><th scope="row">Shared state</th><td><${Badge} level=${s.error ? 'bad' : trouble || s.restoring ? 'warn' : 'ok'} dot>${s.error ? 'down' : trouble ? 'trouble' : s.restoring ? 'restoring' : 'ok'}<//></td>
    <td class="any">${trouble}<span class="quiet num">${trouble && html`<br />`}${f.plural(s.replicas, 'replica')}</span></td></tr>`;
}

function Problems({ c }) {
  if (c.problems.length === 0) return html`<section class="panel"><${Empty} title="No problems">Every object is valid, and everything that it names exists.<//></section>`;
  return html`<section class="panel" aria-label="Problems"><ul class="problems">${c.problems.map((p, i) => html`<li key=${i}>
    <${Badge} level=${p.severity === 'error' ? 'bad' : 'warn'} dot>${p.severity}<//>
    <div><p class="message">${p.message}</p><p class="quiet">${[p.object, p.field].filter(Boolean).join(' · ')}${p.file && html`${p.object || p.field ? ' · ' : ''}<code>${p.file}${p.line > 0 && `:${p.line}`}</code>`}</p></div></li>`)}</ul></section>`;
}

/** How many objects are listed; a filter finds the others. */
const LISTED = 200;

function Objects({ c, params }) {
  const { kind = '', q = '', object = '' } = params;
  const kinds = useMemo(() => [...new Set(c.objects.map((o) => o.kind))].sort(), [c]);
  const list = c.objects.filter((o) => (!kind || o.kind === kind) && (!q || `${o.kind}/${o.id} ${o.yaml}`.toLowerCase().includes(q.toLowerCase())));
  const one = c.objects.find((o) => `${o.kind}/${o.id}` === object) ?? list[0];
  return html`<div class="toolbar" role="search" aria-label="Objects">
      <input type="search" class="input grow" aria-label="Search names and YAML" placeholder="Search names and YAML" value=${q} onInput=${(e) => setParams({ q: e.target.value })} />
      <${Select} label="Kind" all="Every kind" options=${kinds} value=${kind} onPick=${(v) => setParams({ kind: v })} /></div>
    ${list.length === 0 ? html`<section class="panel"><${Empty} title="No object matches" /></section>` : html`<div class="master">
      <nav class="panel" aria-label="Objects"><ul>${list.slice(0, LISTED).map((o) => html`<li key=${`${o.kind}/${o.id}`}><a href=${link('config', 'objects', { ...params, object: `${o.kind}/${o.id}` })} aria-current=${o === one ? 'true' : undefined}><span>${f.shortID(o.id)}</span><span class="quiet">${o.kind}</span></a></li>`)}</ul>
        ${list.length > LISTED && html`<p class="quiet more">${f.count(list.length - LISTED)} more: search for them</p>`}</nav>
      ${one && html`<section class="panel" aria-labelledby="object"><header><h2 id="object">${one.kind} ${f.shortID(one.id)}</h2>${one.file && html`<span class="sub"><code>${one.file}${one.line > 0 && `:${one.line}`}</code></span>`}</header>
        <div class="body"><p class="quiet">As it is used, defaults included. Secrets are not in it.</p><${Code} text=${one.yaml} label=${`YAML of ${one.id}`} /></div></section>`}</div>`}`;
}

const outcomes = { live: 'ok', pending: 'run', refused: 'bad', rejected: 'bad', superseded: '' };
const actions = { added: 'ok', changed: 'warn', removed: 'bad' };

function Changes({ c }) {
  if (c.changes.length === 0) return html`<section class="panel"><${Empty} title="No changes since Weir was started" /></section>`;
  return html`<ol class="stack">${c.changes.map((ch, i) => html`<li key=${ch.seq} class="panel change">
    <header><h2>${f.moment(ch.at)}</h2><${Badge} level=${outcomes[ch.outcome] ?? ''} dot>${ch.outcome}<//>${ch.version && html`<code class="quiet">${ch.version.slice(0, 12)}</code>`}
      <span class="spring" />${ch.liveAt && html`<span class="sub num">live after ${f.duration((Date.parse(ch.liveAt) - Date.parse(ch.at)) / 1000)}</span>`}</header>
    <div class="body">${ch.reason && html`<p class=${ch.outcome === 'refused' || ch.outcome === 'rejected' ? 'error-box' : ''}>${ch.reason}</p>`}
      ${ch.objects.length === 0 && html`<p class="quiet">No object changed.</p>`}
      ${ch.objects.map((o) => html`<details key=${`${o.kind}/${o.id}`} open=${i === 0 && ch.objects.length <= 3 && Boolean(o.diff)}><summary><${Badge} level=${actions[o.action] ?? ''}>${o.action}<//> ${o.kind} <strong>${f.shortID(o.id)}</strong></summary>
        ${o.diff ? html`<${Diff} text=${o.diff} label=${`Changes of ${o.kind} ${o.id}`} />` : html`<p class="quiet">Nothing to show.</p>`}</details>`)}
      ${ch.more > 0 && html`<p class="quiet">and ${f.plural(ch.more, 'further object')}</p>`}</div></li>`)}</ol>`;
}
