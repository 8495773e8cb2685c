// The conversations that Weir keeps: who has which, how far they are, and the end of one.
import { html, useState, useEffect } from '../lib.js';
import * as f from '../format.js';
import { query } from '../net.js';
import { go, link, place, setParams } from '../router.js';
import { Ago, Badge, Empty, Problem, Scroll } from '../ui/parts.js';
import { Top } from '../ui/top.js';
import { useFetched } from '../ui/fetched.js';
import { SessionDetails } from '../sessions/details.js';

/** How many sessions are asked for at first, with each wish for more, and at most. */
const PAGE = 100;
const MOST = 1000;

/** The page. A session is named by its ID, and by its tenant (of) and consumer (by). */
export function Sessions() {
  const { id, params } = place.value;
  const { tenant = '', consumer = '', of = '', by = '' } = params;
  const [limit, setLimit] = useState(PAGE);
  useEffect(() => setLimit(PAGE), [tenant, consumer]);
  const { data, error, reload } = useFetched(`api/sessions${query({ limit, tenant, consumer: tenant && consumer })}`, { every: 5 });
  const list = data?.sessions ?? [];
  const filter = { tenant, consumer };
  const close = () => go('sessions', '', filter);
  return html`
    <${Top} title="Sessions" sub=${data && `${f.count(list.length)}${data.next ? ' of more' : ''}`} />
    <div class="toolbar" role="search" aria-label="Sessions">
      <input type="search" class="input grow" aria-label="Tenant" placeholder="Tenant, in full" value=${tenant} onChange=${(e) => setParams({ tenant: e.target.value.trim() })} />
      <input type="search" class="input grow" aria-label="Consumer" placeholder=${tenant ? 'Consumer: namespace/name' : 'Consumer: needs its tenant'} disabled=${!tenant} value=${consumer} onChange=${(e) => setParams({ consumer: e.target.value.trim() })} /></div>
    ${error && html`<${Problem}>${error}<//>`}
    <section class="panel flush" aria-labelledby="sessions-title"><h2 id="sessions-title" class="sr">Sessions that are kept</h2>
      ${!data && !error && html`<p class="empty">Loading…</p>`}
      ${data && list.length === 0 && html`<${Empty} title=${tenant ? 'No session matches' : 'No sessions'}>${tenant
        ? html`<button type="button" class="button small" onClick=${() => setParams({ tenant: '', consumer: '' })}>Clear the filters</button>`
        : 'A SessionPolicy keeps the conversations of requests that name one.'}<//>`}
      ${list.length > 0 && html`<${Table} list=${list} filter=${filter} at=${id && { id, of, by }} />`}
      ${data?.next && html`<div class="more">${limit < MOST ? html`<button type="button" class="button small" onClick=${() => setLimit(Math.min(MOST, limit + PAGE))}>Show more</button>` : html`<span class="quiet">There are more: name a tenant to see its sessions.</span>`}</div>`}
    </section>
    ${id && html`<${SessionDetails} key=${`${of} ${by} ${id}`} id=${id} tenant=${of} consumer=${by} onClose=${close} onErased=${() => { close(); reload(); }} />`}`;
}

function Table({ list, filter, at }) {
  const open = (l) => at && l.id === at.id && l.tenant === at.of && (l.consumer ?? '') === at.by;
  return html`<${Scroll} label="Sessions"><table class="table"><caption class="sr">Sessions, one a row</caption>
    <thead><tr><th scope="col">Session</th><th scope="col">Tenant</th><th scope="col">Consumer</th><th scope="col">State</th><th scope="col">Intent</th><th scope="col" class="n">Turns</th><th scope="col" class="n">Tokens</th><th scope="col">Used</th><th scope="col">Expires</th><th scope="col">Kept in</th></tr></thead>
    <tbody>${list.map((l) => html`<tr key=${`${l.tenant} ${l.consumer ?? ''} ${l.id}`} class=${open(l) ? 'open' : ''}>
      <th scope="row" class="any"><a href=${link('sessions', l.id, { ...filter, of: l.tenant, by: l.consumer })} aria-current=${open(l) ? 'true' : undefined}>${l.id}</a></th>
      <td>${l.tenant}</td><td>${f.shortID(l.consumer) || f.NONE}</td><td>${l.state ? html`<${Badge} level="run">${l.state}<//>` : f.NONE}</td><td>${l.intent || f.NONE}</td>
      <td class="n">${f.count(l.turns)}</td><td class="n">${f.compact(l.tokens)}</td><td><${Ago} at=${l.used} /></td><td><time datetime=${l.expires}>${f.moment(l.expires)}</time></td><td>${l.store === 'redis' ? 'Redis' : l.store}</td></tr>`)}</tbody></table><//>`;
}
