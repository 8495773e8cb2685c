// All that may be shown of one session: everything but what was said.
import { html, useState } from '../lib.js';
import * as f from '../format.js';
import { ask, query } from '../net.js';
import { link } from '../router.js';
import { Ago, announce, Badge, Copyable, Problem, Scroll } from '../ui/parts.js';
import { Confirm } from '../ui/confirm.js';
import { Drawer } from '../ui/drawer.js';
import { useFetched } from '../ui/fetched.js';

/** @param {{id: string, tenant: string, consumer: string, onClose: () => void, onErased: () => void}} p */
export function SessionDetails({ id, tenant, consumer, onClose, onErased }) {
  const path = `api/sessions/${encodeURIComponent(id)}${query({ tenant, consumer })}`;
  const { data: s, error } = useFetched(path, { every: 3 });
  const [problem, setProblem] = useState('');
  const erase = async () => {
    try {
      await ask(path, { method: 'DELETE' });
    } catch (err) {
      setProblem(err.message);
      return;
    }
    announce('The session is erased');
    onErased();
  };
  return html`<${Drawer} eyebrow="Session" title=${id} of=${path} onClose=${onClose}>
    ${error && html`<section><${Problem}>${error}<//></section>`}
    ${s ? html`<${Body} s=${s} />` : !error && html`<section><p class="quiet">Loading…</p></section>`}
    ${s && html`<section><h3>Erase</h3><p class="quiet">All that is kept of the conversation goes, and does not come back with requests that are under way.</p>
      <p class="row wrap"><${Confirm} label="Erase…" question="Erase this session?" yes="Erase it" onYes=${erase} /></p>
      ${problem && html`<${Problem}>${problem}<//>`}</section>`}
  <//>`;
}

function Body({ s }) {
  const slots = Object.entries(s.slots).sort(([a], [b]) => a.localeCompare(b));
  const entities = Object.entries(s.entities).sort(([a], [b]) => a.localeCompare(b));
  const client = s.consumer && `${s.tenant}/${s.consumer.split('/').pop()}`;
  return html`<section>
      <p class="row wrap">${s.state && html`<${Badge} level="run" dot>${s.state}<//>`}${s.intent && html`<${Badge}>${s.intent}<//>`}${f.known(s.entered) && html`<span class="quiet num">since ${f.moment(s.entered)}</span>`}</p>
      <dl class="figures num"><div><dt>Turns</dt><dd>${f.count(s.turns)}</dd></div><div><dt>Forgotten</dt><dd>${f.count(s.forgotten)}</dd></div><div><dt>Tokens</dt><dd>≈ ${f.compact(s.tokens)}</dd></div><div><dt>Revision</dt><dd>${f.count(s.revision)}</dd></div></dl></section>
    <section><h3>Slots</h3>${slots.length === 0 ? html`<p class="quiet">Nothing was noted.</p>` : html`<${Scroll} label="Slots"><table class="table"><caption class="sr">Slots of the session</caption>
      <thead><tr><th scope="col">Slot</th><th scope="col">Value</th><th scope="col">From</th><th scope="col">When</th></tr></thead>
      <tbody>${slots.map(([name, v]) => html`<tr key=${name}><th scope="row">${name}</th><td class="any">${typeof v.value === 'string' ? v.value : html`<code>${JSON.stringify(v.value)}</code>`}</td><td>${v.source}</td><td><${Ago} at=${v.at} /></td></tr>`)}</tbody></table><//>`}
      ${entities.length > 0 && html`<dl class="kv">${entities.map(([kind, values]) => html`<dt key=${kind}>${kind}</dt><dd>${values.join(', ')}</dd>`)}</dl>`}</section>
    ${s.events.length > 0 && html`<section><h3>Events</h3><ol class="events">${[...s.events].reverse().map((e, i) => html`<li key=${i}><${Badge}>${e.name}<//><span class="what">${e.from === e.to ? `stays ${e.to}` : `${e.from || 'begins'} → ${e.to}`}</span><time datetime=${e.at}>${f.moment(e.at)}</time></li>`)}</ol></section>`}
    <section><h3>More</h3><dl class="kv"><dt>ID</dt><dd><${Copyable} text=${s.id} label="session ID" /></dd>
      <dt>Client</dt><dd>${client ? html`<a href=${link('topology', '', { node: `client:${client}` })}>${client}</a>` : `everybody of ${s.tenant}`}</dd>
      <dt>Policy</dt><dd><a href=${link('config', 'objects', { kind: 'SessionPolicy', object: `SessionPolicy/${s.policy}` })}>${f.shortID(s.policy)}</a></dd>
      <dt>Created</dt><dd>${f.moment(s.created)}</dd><dt>Used</dt><dd>${f.moment(s.used)} (<${Ago} at=${s.used} />)</dd><dt>Expires</dt><dd>${f.moment(s.expires)}</dd></dl></section>`;
}
