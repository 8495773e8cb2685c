// How clients are set up for this gateway.
import { html, signal, useMemo } from '../lib.js';
import * as f from '../format.js';
import { query } from '../net.js';
import { place, setParams } from '../router.js';
import { Code, CopyButton, Field, Problem } from '../ui/parts.js';
import { Top } from '../ui/top.js';
import { useFetched } from '../ui/fetched.js';

/** The reader's own key, to fill in: in memory only. */
const key = signal('');

/** The page. */
export function Setup() {
  const { client = '', model = '', url = '' } = place.value.params;
  const { data, error } = useFetched(`api/setup${query({ model, url })}`);
  const one = data?.clients.find((c) => c.id === client) ?? data?.clients[0];
  return html`<${Top} title="Setup" sub="clients of this gateway" />
    ${error && html`<${Problem}>${error}<//>`}
    ${data && html`<${Choices} data=${data} model=${model} />
      <div class="master">
        <nav class="panel" aria-label="Clients"><ul>${data.clients.map((c) => html`<li key=${c.id}><a href=${`#/setup?${new URLSearchParams({ ...place.value.params, client: c.id })}`} aria-current=${c === one ? 'true' : undefined}><span>${c.name}</span></a></li>`)}</ul></nav>
        ${one && html`<${Client} c=${one} placeholder=${data.keyPlaceholder} />`}
      </div>`}`;
}

function Choices({ data, model }) {
  const callers = useMemo(() => data.callers.filter((c) => c.models.includes(data.model)), [data]);
  return html`<form class="panel choices" aria-labelledby="setup-gateway" onSubmit=${(e) => e.preventDefault()}><header><h2 id="setup-gateway">This gateway</h2></header><div class="body grid three">
    <${Field} label="Base URL">${(id) => html`<div class="row">${data.baseUrls.length > 1
      ? html`<select class="input" id=${id} value=${data.baseUrl} onChange=${(e) => setParams({ url: e.target.value })}>${data.baseUrls.map((u) => html`<option key=${u} value=${u}>${u}</option>`)}</select>`
      : html`<input class="input" id=${id} readonly value=${data.baseUrl} />`}<${CopyButton} text=${data.baseUrl} label="base URL" small=${false} /></div>`}<//>
    <${Field} label="Model" hint=${model || callers.length === 0 ? '' : `Open to ${callers.slice(0, 4).map((c) => f.shortID(c.id)).join(', ')}${callers.length > 4 ? ` and ${callers.length - 4} more` : ''}.`}>${(id) => html`<select class="input" id=${id} value=${data.model} onChange=${(e) => setParams({ model: e.target.value })}>
      ${!data.models.some((m) => m.id === data.model) && html`<option value=${data.model}>${data.model}</option>`}${data.models.map((m) => html`<option key=${m.id} value=${m.id}>${m.id}</option>`)}</select>`}<//>
    <${Field} label="Your API key (optional)" hint="Filled into the snippets on this page; it is sent nowhere and not kept.">${(id) => html`<input class="input" id=${id} type="password" autocomplete="off" spellcheck=${false} value=${key.value} onInput=${(e) => { key.value = e.target.value.trim(); }} aria-describedby=${`${id}-hint`} placeholder=${data.keyPlaceholder} />`}<//>
  </div></form>`;
}

function Client({ c, placeholder }) {
  return html`<section class="panel" aria-labelledby="setup-client"><header><h2 id="setup-client">${c.name}</h2></header><div class="body stack">
    <p>${c.about}</p>
    ${c.snippets.map((s) => html`<div key=${s.title} class="snippet"><h3>${s.title} <span class="quiet">${s.language}</span></h3><${Code} text=${key.value ? s.text.replaceAll(placeholder, key.value) : s.text} label=${`${c.name}: ${s.title}`} /></div>`)}
  </div></section>`;
}
