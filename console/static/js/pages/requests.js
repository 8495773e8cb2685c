// Requests as they run and end: a live table with filters, and all that is known of one of them.
import { html, signal, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../lib.js';
import * as f from '../format.js';
import { matches, merge } from '../feed.js';
import { query } from '../net.js';
import { link, place, setParams, go } from '../router.js';
import { feed, model } from '../stream.js';
import { announce, Empty, Problem, Select } from '../ui/parts.js';
import { Icon } from '../ui/icons.js';
import { Top } from '../ui/top.js';
import { useFetched } from '../ui/fetched.js';
import { RequestDetails } from '../requests/details.js';
import { RequestTable } from '../requests/table.js';

const STATUSES = [
  ['running', 'running'], ['ok', 'ok'], ['refused', 'refused by Weir'], ['failed', 'failed'], ['aborted', 'aborted by the caller'], ['interrupted', 'interrupted'],
  ['2xx', '2xx'], ['4xx', '4xx'], ['5xx', '5xx'], ['429', '429 too many'],
];
/** What may come of the cache. */
const CACHE = [['hit', 'cache hit'], ['stale', 'stale hit'], ['shared', 'shared while bought'], ['negative', 'kept refusal'], ['miss', 'cache miss'], ['bypass', 'past the cache']];
/** How many rows are shown at first, and with each wish for more. */
const ROWS = 100;
/** How many requests are asked for when the page is opened or a filter changes. */
const ASKED = 300;
/** With requests that were not told one by one the list is asked for again, at most so often. */
const CATCH_UP = 3000;

/** What is shown while the table stands still; null while it moves. It outlives a look at another page. */
const frozen = signal(null);

/** The page. */
export function Requests() {
  const { id, params } = place.value;
  const { route = '', backend = '', tenant = '', cache = '', status = '', q = '' } = params;
  const filter = useMemo(() => ({ route, backend, tenant, cache, status, q }), [route, backend, tenant, cache, status, q]);
  const [rows, setRows] = useState(ROWS);
  const catchUp = useCatchUp();
  const asked = useFetched(`api/requests${query({ limit: ASKED, route, backend, tenant, cache, status, q })}`, { again: catchUp });
  useEffect(() => setRows(ROWS), [filter]);

  const running = feed.running.value;
  const recent = feed.recent.value;
  // The server also finds requests that tried a backend before another one answered; an answer to the filter before is not shown.
  const answered = asked.loading ? [] : asked.data?.recent ?? [];
  const live = useMemo(() => ({
    running: running.filter((r) => matches(r, filter)),
    recent: merge(recent.filter((r) => matches(r, filter)), answered),
  }), [running, recent, asked.data, asked.loading, filter]);
  const still = frozen.value;
  const shown = useMemo(() => (still ? { running: still.running.filter((r) => matches(r, filter)), recent: still.recent.filter((r) => matches(r, filter)) } : live), [still, live, filter]);
  const waiting = still ? countNew(live.recent, still.recent) : 0;
  const pause = () => {
    frozen.value = frozen.value ? null : { running: live.running, recent: live.recent };
    announce(frozen.value ? 'Paused' : 'Live again');
  };
  usePauseKey(pause);

  const open = (r) => go('requests', r.id, params);
  const all = shown.recent.length;
  return html`
    <${Top} title="Requests" sub=${asked.data && `${f.count(asked.data.total)} kept since the start`} />
    <${Filters} filter=${filter} paused=${Boolean(still)} waiting=${waiting} onPause=${pause} />
    ${asked.error && html`<${Problem}>${asked.error}<//>`}
    <section class="panel live-data requests" aria-labelledby="requests-title"><h2 id="requests-title" class="sr">Running and recent requests</h2>
      ${shown.running.length + all === 0
        ? html`<${Empty} title=${Object.values(filter).some(Boolean) ? 'No request matches' : 'No requests yet'}>${Object.values(filter).some(Boolean)
          ? html`<button type="button" class="button small" onClick=${() => setParams({ route: '', backend: '', tenant: '', cache: '', status: '', q: '' })}>Clear the filters</button>`
          : html`Send one from the <a href=${link('playground')}>playground</a>, or <a href=${link('setup')}>set up a client</a>.`}<//>`
        : html`<${RequestTable} running=${shown.running} recent=${shown.recent.slice(0, rows)} selected=${id} onOpen=${open} params=${params} />`}
      ${all > rows && html`<footer><button type="button" class="button small" onClick=${() => setRows(rows + ROWS)}>Show ${f.count(Math.min(ROWS, all - rows))} more</button> <span class="quiet num">${f.count(all - rows)} more are here${asked.data?.more ? ', and more are kept: narrow the filters to see them' : ''}</span></footer>`}
    </section>
    ${id && html`<${RequestDetails} id=${id} onClose=${() => go('requests', '', params)} />`}`;
}

function countNew(live, still) {
  const seen = new Set(still.map((r) => r.id));
  return live.filter((r) => !seen.has(r.id)).length;
}

/** A number that rises when the list should be asked for again. */
function useCatchUp() {
  const [n, setN] = useState(0);
  const skipped = feed.skipped.value;
  const first = useRef(skipped);
  const timer = useRef(0);
  useEffect(() => {
    if (skipped === first.current || timer.current || frozen.peek()) return;
    timer.current = setTimeout(() => {
      timer.current = 0;
      setN((x) => x + 1);
    }, CATCH_UP);
  }, [skipped]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return n;
}

function usePauseKey(pause) {
  const latest = useRef(pause);
  latest.current = pause;
  useLayoutEffect(() => {
    const key = (e) => {
      // Where space presses something, or writes, it does that.
      if (e.key !== ' ' || e.ctrlKey || e.metaKey || e.altKey || e.target.closest('input, textarea, select, button, a, dialog, [role="tab"], .drawer')) return;
      e.preventDefault();
      latest.current();
    };
    addEventListener('keydown', key);
    return () => removeEventListener('keydown', key);
  }, []);
}

/** Names to choose from: what the gateway has, and who has asked lately. */
function Filters({ filter, paused, waiting, onPause }) {
  const s = model.structure.value;
  const tenants = useMemo(() => [...new Set((s?.clients ?? []).map((c) => c.tenant).filter((t) => t && t !== '-'))].sort(), [s]);
  const set = (name) => (v) => setParams({ [name]: v });
  return html`<div class="toolbar" role="search" aria-label="Requests">
    <input type="search" class="input grow" aria-label="Search by ID, model, consumer or reason" placeholder="ID, model, consumer, reason…" value=${filter.q} onInput=${(e) => setParams({ q: e.target.value })} />
    <${Select} label="Route" all="Every route" options=${(s?.routes ?? []).map((r) => r.id)} name=${f.shortID} value=${filter.route} onPick=${set('route')} />
    <${Select} label="Backend" all="Every backend" options=${(s?.backends ?? []).map((b) => b.id)} name=${f.shortID} value=${filter.backend} onPick=${set('backend')} />
    <${Select} label="Tenant" all="Every tenant" options=${tenants} value=${filter.tenant} onPick=${set('tenant')} />
    <${Select} label="Outcome or status" all="Every outcome" options=${STATUSES.map(([v]) => v)} name=${(v) => STATUSES.find(([x]) => x === v)?.[1] ?? v} value=${filter.status} onPick=${set('status')} />
    <${Select} label="Outcome of the cache" all="Cached or not" options=${CACHE.map(([v]) => v)} name=${(v) => CACHE.find(([x]) => x === v)?.[1] ?? v} value=${filter.cache} onPick=${set('cache')} />
    <span class="end">${paused && html`<span class="num">${waiting >= 1 ? `${f.count(waiting)} new since` : 'standing still'}</span>`}
      <button type="button" class="button" aria-pressed=${String(paused)} onClick=${onPause} title="Space"><${Icon} name=${paused ? 'play' : 'pause'} />${paused ? 'Resume' : 'Pause'}</button></span>
  </div>`;
}
