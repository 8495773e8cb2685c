// What the response cache keeps, what it saves, and how to throw answers away.
import { html, useMemo, useState } from '../lib.js';
import * as f from '../format.js';
import { ask } from '../net.js';
import { link } from '../router.js';
import { announce, Badge, Bar, Empty, Field, Problem, Scroll, fullness } from '../ui/parts.js';
import { Confirm } from '../ui/confirm.js';
import { Top } from '../ui/top.js';
import { useFetched } from '../ui/fetched.js';

const answered = (p) => p.hits.memory + p.hits.redis + p.stale + p.negative;
const sum = (list, of) => list.reduce((n, p) => n + of(p), 0);

/** What policies have saved, an amount for each currency: money of two currencies is not added. */
function savedCost(list) {
  const by = new Map();
  for (const { amount, currency } of list.flatMap((p) => p.savedCost)) by.set(currency, (by.get(currency) ?? 0) + Number(amount));
  return by.size > 0 ? [...by].map(([currency, n]) => f.money(String(n), currency)).join(' + ') : f.NONE;
}

/** The page. */
export function Cache() {
  const { data, error, reload } = useFetched('api/cache', { every: 3 });
  const list = data?.policies ?? [];
  return html`
    <${Top} title="Cache" sub="of this replica, since its start" />
    ${error && html`<${Problem}>${error}<//>`}
    ${data?.redis === 'down' && html`<p class="banner warn" role="alert">Redis does not answer: this replica keeps answers in its memory alone.</p>`}
    ${!data && !error && html`<p class="empty">Loading…</p>`}
    ${data && list.length === 0 && html`<section class="panel none"><${Empty} title="No CachePolicy is in use">A CachePolicy keeps answers and gives them again, so that they are not paid for twice.<//></section>`}
    ${data && html`${list.length > 0 && html`<${Figures} c=${data} />`}
      <div class="stack">${list.length > 0 && html`<${Policies} list=${list} /><${Filters} list=${list} />`}<${Purge} list=${list} done=${reload} /></div>`}`;
}

function Figures({ c }) {
  const list = c.policies;
  const given = sum(list, answered);
  const all = given + sum(list, (p) => p.misses);
  const tiles = [
    ['Hit ratio', all > 0 ? f.percent(given / all) : f.NONE, `${f.compact(given)} of ${f.compact(all)}`],
    ['Money saved', savedCost(list), 'not spent'],
    ['Tokens saved', f.compact(sum(list, (p) => p.savedTokens.input + p.savedTokens.output)), `${f.compact(sum(list, (p) => p.savedTokens.output))} of output`],
    ['Shared', f.compact(sum(list, (p) => p.shared)), 'while bought'],
    ['Entries', f.compact(sum(list, (p) => p.entries)), f.bytes(sum(list, (p) => p.bytes))],
    ['Being bought', f.count(c.buying), f.bytes(c.buyingBytes)],
    ['Redis', c.redis, c.queue > 0 ? `${f.count(c.queue)} waiting` : c.replicas > 0 ? f.plural(c.replicas, 'replica') : ''],
  ];
  return html`<dl class="tiles num" aria-label="Figures of the cache">${tiles.map(([name, value, more]) => html`<div key=${name}><dt>${name}</dt><dd>${value} <small>${more}</small></dd></div>`)}</dl>`;
}

function Policies({ list }) {
  return html`<section class="panel flush" aria-labelledby="by-policy"><header><h2 id="by-policy">Policies</h2><span class="sub num">${f.count(list.length)}</span></header>
    <${Scroll} label="Policies"><table class="table"><caption class="sr">What the cache has done for each CachePolicy</caption>
      <thead><tr><th scope="col">Policy</th><th scope="col" class="n">Hit ratio</th><th scope="col" class="n">Memory hits</th><th scope="col" class="n">Redis hits</th><th scope="col" class="n" title="Past the TTL, given while bought again">Stale</th>
        <th scope="col" class="n" title="Refusals that were given again">Negative</th><th scope="col" class="n" title="Answered by what another was buying">Shared</th><th scope="col" class="n">Misses</th><th scope="col" class="n">Tokens saved</th><th scope="col" class="n" title="What the answers would have cost">Money saved</th><th scope="col">Memory</th></tr></thead>
      <tbody>${list.map((p) => html`<tr key=${p.id}><th scope="row"><a href=${link('config', 'objects', { kind: 'CachePolicy', object: `CachePolicy/${p.id}` })}>${f.shortID(p.id)}</a>
          <br /><span class="quiet">${[`TTL ${f.span(p.ttlSeconds)}`, p.sharedStore && 'Redis', p.semantic && 'by meaning'].filter(Boolean).join(' · ')}</span></th>
        <td class="n">${p.hitRatio === undefined ? f.NONE : f.percent(p.hitRatio)}</td><td class="n">${f.count(p.hits.memory)}</td><td class="n">${f.count(p.hits.redis)}</td><td class="n">${f.count(p.stale)}</td><td class="n">${f.count(p.negative)}</td>
        <td class="n">${f.count(p.shared)}</td><td class="n">${f.count(p.misses)}</td><td class="n">${f.compact(p.savedTokens.input + p.savedTokens.output)}</td><td class="n">${savedCost([p])}</td>
        <td class="share">${p.maxBytes > 0 ? html`<${Bar} value=${p.bytes / p.maxBytes} level=${fullness(p.bytes / p.maxBytes)} /><span class="quiet num">${f.plural(p.entries, 'entry', 'entries')}, ${f.bytes(p.bytes)} of ${f.bytes(p.maxBytes)}${p.evicted > 0 && `, ${f.count(p.evicted)} evicted`}</span>` : html`<span class="quiet">none: in Redis alone</span>`}</td></tr>`)}</tbody></table><//></section>`;
}

function Filters({ list }) {
  const filters = list.filter((p) => p.bloom);
  if (filters.length === 0) return null;
  return html`<section class="panel flush" aria-labelledby="bloom"><header><h2 id="bloom">Bloom filters before Redis</h2></header>
    <${Scroll} label="Bloom filters"><table class="table"><caption class="sr">What Redis was spared, for each CachePolicy</caption>
      <thead><tr><th scope="col">Policy</th><th scope="col">State</th><th scope="col" class="n">Keys</th><th scope="col" class="n">Made for</th><th scope="col" class="n">Redis spared</th><th scope="col" class="n">False positives</th><th scope="col" class="n">Configured</th></tr></thead>
      <tbody>${filters.map(({ id, bloom: b }) => html`<tr key=${id}><th scope="row">${f.shortID(id)}</th><td><${Badge} level=${b.ready ? 'ok' : ''} dot>${b.ready ? 'ready' : 'being made'}<//></td>
        <td class="n">${f.count(b.keys)}</td><td class="n">${f.count(b.maxKeys)}</td><td class="n">${f.count(b.spared)}</td><td class="n">${b.falsePositives === undefined ? f.NONE : f.percent(b.falsePositives)}</td><td class="n">${f.percent(b.configuredFalsePositives)}</td></tr>`)}</tbody></table><//></section>`;
}

/** What answers can be chosen by, beside the policy. */
const texts = [['tenant', 'Tenant'], ['model', 'Model'], ['tag', 'Tag']];

function Purge({ list, done }) {
  const [by, setBy] = useState({ policy: '', tenant: '', model: '', tag: '' });
  const [said, setSaid] = useState('');
  const [problem, setProblem] = useState('');
  const set = (name, value) => { setBy((old) => ({ ...old, [name]: value })); setSaid(''); };
  const chosen = useMemo(() => Object.entries(by).map(([k, v]) => [k, v.trim()]).filter(([, v]) => v), [by]);
  const purge = async () => {
    setProblem('');
    setSaid('');
    try {
      const { purged } = await ask('api/cache/purge', { method: 'POST', body: Object.fromEntries(chosen) });
      setSaid(`${f.plural(purged, 'answer')} purged.`);
      announce(`${f.plural(purged, 'answer')} purged`);
    } catch (err) {
      setProblem(err.message);
    }
    done();
  };
  const question = `Purge the answers of ${chosen.map(([k, v]) => `${k} ${v}`).join(', ')}?`;
  return html`<section class="panel" aria-labelledby="purge"><header><h2 id="purge">Purge</h2><span class="sub">removes the answers for which all of this is true, from every replica that shares them</span></header>
    <div class="body stack"><div class="grid four">
      <${Field} label="Policy">${(id) => html`<select class="input" id=${id} value=${by.policy} onChange=${(e) => set('policy', e.target.value)}><option value="">Any</option>${list.map((p) => html`<option key=${p.id} value=${p.id}>${f.shortID(p.id)}</option>`)}</select>`}<//>
      ${texts.map(([name, label]) => html`<${Field} key=${name} label=${label}>${(id) => html`<input class="input" id=${id} placeholder="Any" autocomplete="off" value=${by[name]} onInput=${(e) => set(name, e.target.value)} />`}<//>`)}</div>
      <div class="row wrap"><${Confirm} key=${question} label="Purge…" question=${question} yes="Purge them" disabled=${chosen.length === 0} onYes=${purge} />${said && html`<span>${said}</span>`}</div>
      ${problem && html`<${Problem}>${problem}<//>`}</div></section>`;
}
