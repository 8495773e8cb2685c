// Who has used what, and how much is left.
import { html, useMemo } from '../lib.js';
import * as f from '../format.js';
import { query } from '../net.js';
import { place, setParams } from '../router.js';
import { Badge, Bar, Empty, Scroll, Problem, Segments, Select } from '../ui/parts.js';
import { Chart } from '../ui/chart.js';
import { Top } from '../ui/top.js';
import { useFetched } from '../ui/fetched.js';
import { Budgets } from '../usage/limits.js';
import { days, measures, series, sumBy } from '../usage/sums.js';

const groups = [
  { id: 'tenant', label: 'Tenant' }, { id: 'consumer', label: 'Consumer' }, { id: 'credential', label: 'Key' }, { id: 'model', label: 'Model' },
  { id: 'backend', label: 'Backend' }, { id: 'route', label: 'Route' },
];
const periods = [{ id: 'today', label: 'Today' }, { id: '7d', label: '7 days' }, { id: '30d', label: '30 days' }, { id: 'month', label: 'This month' }];

const iso = (ms) => new Date(ms).toISOString().slice(0, 10);

/** The first and the last day of a period. Days are those of UTC, as in the ledger. */
function period(id, from, to) {
  const today = iso(Date.now());
  if (id === 'custom' && from) return [from, to && to >= from ? to : today >= from ? today : from];
  if (id === 'today') return [today, today];
  if (id === '30d') return [iso(Date.now() - 29 * 86400e3), today];
  if (id === 'month') return [`${today.slice(0, 8)}01`, today];
  return [iso(Date.now() - 6 * 86400e3), today];
}

/** The page. */
export function Usage() {
  const { by = 'tenant', show = 'tokens', period: p = '7d', from: first, to: last, tenant = '' } = place.value.params;
  const group = groups.find((g) => g.id === by) ?? groups[0];
  const measure = measures[show] ? show : 'tokens';
  const [from, to] = period(p, first, last);
  const dimensions = [...new Set(['day', 'tenant', group.id])].join(',').replace('credential', 'key');
  const { data, error } = useFetched(`api/usage${query({ from, to, by: dimensions })}`, { every: 10 });
  const all = data?.rows ?? [];
  const tenants = useMemo(() => [...new Set(all.map((r) => r.tenant).filter(Boolean))].sort(), [data]);
  const rows = useMemo(() => (tenant ? all.filter((r) => r.tenant === tenant) : all), [data, tenant]);
  return html`
    <${Top} title="Usage" sub="days in UTC" />
    <div class="toolbar" role="group" aria-label="What is shown">
      <${Segments} label="Measure" options=${Object.entries(measures).map(([id, m]) => ({ id, label: m.label }))} at=${measure} onPick=${(v) => setParams({ show: v })} />
      <${Segments} label="Period" options=${periods} at=${p} onPick=${(v) => setParams({ period: v, from: '', to: '' })} />
      <label class="check">from <input type="date" class="input" value=${from} max=${to} onChange=${(e) => setParams({ period: 'custom', from: e.target.value, to })} /></label>
      <label class="check">to <input type="date" class="input" value=${to} min=${from} onChange=${(e) => setParams({ period: 'custom', from, to: e.target.value })} /></label>
      <${Select} label="Tenant" all="Every tenant" options=${tenants} value=${tenant} onPick=${(v) => setParams({ tenant: v })} />
    </div>
    ${error && html`<${Problem}>${error}<//>`}
    <section class="panel" aria-labelledby="over-time">
      <header><h2 id="over-time">${measures[measure].label} per ${group.label.toLowerCase()}</h2><span class="spring" />
        <${Segments} label="Group by" options=${groups} at=${group.id} onPick=${(v) => setParams({ by: v })} /></header>
      ${data && (rows.length === 0 ? html`<${Empty} title="Nothing was used in this period" />` : html`<${Sums} rows=${rows} group=${group} measure=${measure} from=${from} to=${to} />`)}
      ${!data && !error && html`<p class="empty">Loading…</p>`}
    </section>
    <${Budgets} tenant=${tenant} />`;
}

const nameOf = (group, name) => f.shortID(name) || `no ${group.label.toLowerCase()}`;

function Sums({ rows, group, measure, from, to }) {
  const { of } = measures[measure];
  const sums = useMemo(() => sumBy(rows, group.id, of), [rows, group.id, measure]);
  const total = sums.reduce((n, s) => n + s.value, 0);
  const currencies = [...new Set(sums.map((s) => s.currency).filter(Boolean))];
  const currency = currencies.length === 1 ? currencies[0] : '';
  const money = measure === 'cost' || measure === 'saved';
  const format = money ? (v) => (v === 0 ? '0' : f.money(String(v), currency)) : f.compact;
  const list = useMemo(() => days(from, to), [from, to]);
  const lines = useMemo(() => series(rows, group.id, of, list), [rows, group.id, measure, list]);
  const colours = new Map(lines.map((s, i) => [s.name, `c${s.name === null ? 8 : i + 1}`]));
  const times = useMemo(() => list.map((d) => Date.parse(d) / 1000), [list]);
  const mixed = money && currencies.length > 1;
  return html`<div class="body">
    ${list.length > 1 && (mixed ? html`<p class="quiet">Costs are in ${currencies.join(' and ')}, which one chart cannot show; the table has them.</p>` : html`<${Chart} times=${times} stacked height=${230} format=${format} tick=${(t) => f.utcDay(new Date(t * 1000))}
      text=${`${measures[measure].label} per day and ${group.label.toLowerCase()}: ${format(total)} in ${f.plural(list.length, 'day')}; most by ${sums.slice(0, 3).map((s) => `${nameOf(group, s.name)} ${format(s.value)}`).join(', ')}. The table below has every sum.`}
      series=${lines.map((s) => ({ label: s.name === null ? 'Others' : nameOf(group, s.name), c: colours.get(s.name), kind: 'bars', values: s.values }))} />`)}
    <${Scroll} label="Sums"><table class="table sums"><caption class="sr">${`Sums of the period per ${group.label.toLowerCase()}`}</caption>
      <thead><tr><th scope="col">${group.label}</th><th scope="col">Share</th><th scope="col" class="n">Requests</th><th scope="col" class="n">Failed</th><th scope="col" class="n">Tokens in</th><th scope="col" class="n">Tokens out</th><th scope="col" class="n">Cost</th><th scope="col" class="n" title="What answers from the cache would have cost: no part of the cost">Saved</th></tr></thead>
      <tbody>${sums.map((s) => html`<tr key=${s.key}><th scope="row"><i class=${`swatch ${colours.get(s.name) ?? 'c8'}`} aria-hidden="true" />${nameOf(group, s.name)}</th>
        <td class="share">${mixed ? f.NONE : html`<${Bar} value=${total > 0 ? s.value / total : 0} /><span class="quiet">${f.percent(total > 0 ? s.value / total : 0)}</span>`}</td>
        <td class="n">${f.count(s.requests)}</td><td class=${`n ${s.failed > 0 ? 'failed' : ''}`}>${f.count(s.failed)}</td><td class="n">${f.compact(s.input)}</td><td class="n">${f.compact(s.output)}</td>
        <td class="n">${s.cost > 0 ? f.money(String(s.cost), s.currency) : f.NONE}${s.unpriced > 0 && html`<br /><${Badge} title="Requests that no price applies to">${f.compact(s.unpriced)} unpriced<//>`}</td><td class="n">${s.saved > 0 ? f.money(String(s.saved), s.currency) : f.NONE}</td></tr>`)}</tbody>
      <tfoot><tr><th scope="row">All</th><td /><td class="n">${f.count(sum(sums, 'requests'))}</td><td class="n">${f.count(sum(sums, 'failed'))}</td><td class="n">${f.compact(sum(sums, 'input'))}</td><td class="n">${f.compact(sum(sums, 'output'))}</td>
        <td class="n">${currencies.length > 1 ? f.NONE : f.money(String(sum(sums, 'cost')), currency)}</td><td class="n">${currencies.length > 1 ? f.NONE : f.money(String(sum(sums, 'saved')), currency)}</td></tr></tfoot></table><//>
  </div>`;
}

const sum = (list, key) => list.reduce((n, s) => n + s[key], 0);
