// Budgets and limits: how much of each is used, and who has used it.
import { html, useMemo } from '../lib.js';
import * as f from '../format.js';
import { Badge, Bar, Problem } from '../ui/parts.js';
import { useFetched } from '../ui/fetched.js';
import { amount } from '../requests/details.js';
import { used } from './sums.js';

/** From this part on a counter is worth a warning. */
const WARN = 0.8;
/** Counters of a limit that are shown at first. */
const FIRST = 5;

/** @param {{tenant: string}} p the tenant that the page is about; "" for all */
export function Budgets({ tenant }) {
  const { data, error } = useFetched('api/limits', { every: 3 });
  const list = data?.limits ?? [];
  const [budgets, limits] = useMemo(() => [list.filter((l) => l.id.startsWith('Budget/')), list.filter((l) => !l.id.startsWith('Budget/'))], [data]);
  const near = list.flatMap((l) => (l.shadow ? [] : l.subjects.filter((s) => used(s) >= WARN).map((s) => ({ l, s }))));
  return html`
    ${error && html`<${Problem}>${error}<//>`}
    ${data?.sharedState.configured && !data.sharedState.up && html`<p class="banner warn" role="alert">The shared state is out of reach${data.sharedState.downSince && ` since ${f.clock(data.sharedState.downSince)}`}: this replica counts by itself, within what it has leased.</p>`}
    ${near.length > 0 && html`<div class="banner warn"><span><strong>${f.plural(near.length, 'counter')} at ${f.percent(WARN)} or more:</strong> ${near.slice(0, 4).map(({ l, s }) => `${s.subject || 'all'} (${l.name}, ${f.percent(used(s))})`).join(', ')}${near.length > 4 ? '…' : ''}</span></div>`}
    <div class="grid two limits">
      <${Group} id="budgets" title="Budgets" list=${budgets} tenant=${tenant} none=${data && 'No budget is configured.'} />
      <${Group} id="limits" title="Limits" list=${limits} tenant=${tenant} none=${data && 'No limit is configured.'} />
    </div>`;
}

function Group({ id, title, list, tenant, none }) {
  return html`<section class="panel" aria-labelledby=${id}><header><h2 id=${id}>${title}</h2><span class="sub num">${f.count(list.length)}</span></header>
    <div class="body stack">${list.length === 0 ? html`<p class="quiet">${none || 'Loading…'}</p>` : list.map((l) => html`<${Limit} key=${l.id} l=${l} tenant=${tenant} />`)}</div></section>`;
}

function Limit({ l, tenant }) {
  const subjects = useMemo(() => [...l.subjects].filter((s) => !tenant || s.subject.includes(tenant)).sort((a, b) => used(b) - used(a)), [l, tenant]);
  const row = (s) => html`<${Subject} key=${s.subject} s=${s} unit=${l.unit} />`;
  return html`<article class="limit"><h3>${f.shortID(l.name)} ${l.shadow && html`<${Badge} title="It is counted and refuses nobody">shadow<//>`}</h3>
    <p class="quiet num">${amount(l.limit, l.unit)} ${l.unit === 'money' ? (l.currency ?? '') : l.unit}${l.window && ` per ${windowName(l.window)}`} · ${f.count(l.admitted)} admitted${l.refused > 0 && html`, <span class="failed">${f.count(l.refused)} refused</span>`}${l.shadowRefused > 0 && `, ${f.count(l.shadowRefused)} would be refused`}${l.waiting > 0 && `, ${f.count(l.waiting)} waiting`}</p>
    ${subjects.length === 0 ? html`<p class="quiet">Nobody has used it yet.</p>` : html`<ul class="subjects">${subjects.slice(0, FIRST).map(row)}</ul>`}
    ${subjects.length > FIRST && html`<details><summary>${f.plural(subjects.length - FIRST, 'further counter')}${l.counters > l.subjects.length ? ` of ${f.count(l.counters)}` : ''}</summary><ul class="subjects">${subjects.slice(FIRST).map(row)}</ul></details>`}
  </article>`;
}

function Subject({ s, unit }) {
  const part = used(s);
  const level = part >= 0.999 ? 'bad' : part >= WARN ? 'warn' : 'ok';
  return html`<li><span class="who">${s.subject || 'all'}</span><span class="n num">${amount(s.limit - s.remaining, unit)} <span class="quiet">of ${amount(s.limit, unit)}</span></span>
    <${Bar} value=${part} level=${level} />
    <span class="quiet num">${f.percent(part)} used${s.reserved > 0 && `, ${amount(s.reserved, unit)} reserved`}</span>
    <span class="n quiet num">${s.refused > 0 && html`<span class="failed">${f.count(s.refused)} refused</span> · `}${s.resetSeconds > 0 ? `resets in ${f.span(s.resetSeconds)}` : ''}</span></li>`;
}

/** "1h0m0s" of Go as "1h". */
const windowName = (w) => w.replace(/(\D)0s$/, '$1').replace(/(\D)0m$/, '$1');
