// What has gone wrong with a dependency, minute by minute and event by event.
import { html, signal, useEffect, useMemo } from '../lib.js';
import * as f from '../format.js';
import { ask } from '../net.js';
import { connection, events } from '../stream.js';
import { Ago, Badge, Dot } from '../ui/parts.js';
import { Chart } from '../ui/chart.js';
import { mergeEvents } from '../events.js';
import { healthLevel } from '../model.js';

/** Words of events as levels. */
export const severityLevel = { info: 'idle', warning: 'warn', error: 'bad' };

/** The answer of /api/history; null until it is known. */
export const history = signal(null);

/** Between two questions for the minutes, in milliseconds; events come by the stream at once. */
const EVERY = 15_000;
/** So soon after an event the minutes are asked for: not for each event of a burst, and not only when it has ended. */
const SOON = 1000;

let watchers = 0;
let timer = 0;
let due = Infinity;

/** Asks at a time, unless it is asked before that anyway. */
function askIn(ms) {
  const at = Date.now() + ms;
  if (at >= due) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(load, ms);
}

async function load() {
  if (!document.hidden && connection.peek() !== 'lost' || !history.peek()) {
    try {
      history.value = await ask('api/history');
    } catch {
      // The banner tells of a lost connection; what is shown stays.
    }
  }
  due = Infinity;
  if (watchers > 0) askIn(EVERY);
}

/** Keeps the history fresh while a part of the page shows it. */
export function useHistory() {
  const newest = events.value[0];
  useEffect(() => {
    watchers++;
    askIn(0);
    return () => { watchers--; };
  }, []);
  useEffect(() => {
    if (newest) askIn(SOON);
  }, [newest?.seq, newest?.count]);
}

/** The failure history of one dependency. @param {{id: string}} p "kind:name" */
export function FailureHistory({ id }) {
  useHistory();
  const h = history.value;
  const d = h?.dependencies.find((x) => x.id === id);
  const list = mergeEvents(events.value.filter((e) => e.dependency === id), d?.events ?? []);
  if (!h) return html`<section><h3>Failure history</h3><p class="quiet">Loading…</p></section>`;
  return html`<section class="history"><h3>Failure history</h3>
    ${d && html`<p class="row wrap"><${Badge} level=${healthLevel(d.state)} dot>${d.state}<//>${f.known(d.since) && html`<span class="quiet">since ${f.clock(d.since)} (<${Ago} at=${d.since} />)</span>`}</p>`}
    ${d?.why && html`<p>${d.why}</p>`}
    ${d ? html`<${Minutes} d=${d} />` : list.length === 0 && html`<p class="quiet">No failure in the last hour. Weir was started <${Ago} at=${h.since} />.</p>`}
    ${list.length > 0 ? html`<${Events} list=${list} label=${`Events of ${id}`} />` : d && html`<p class="quiet">No events. Weir was started <${Ago} at=${h.since} />.</p>`}
  </section>`;
}

/** Requests and failures of each minute. */
function Minutes({ d }) {
  const first = Date.parse(d.firstMinute) / 1000;
  const times = useMemo(() => d.failures.map((_, i) => first + i * 60), [first, d.failures.length]);
  const total = d.failures.reduce((a, b) => a + b, 0);
  const asked = d.requests.reduce((a, b) => a + b, 0);
  const text = `${f.plural(total, 'failure')}${asked ? ` of ${f.plural(asked, 'request')}` : ''} in the last ${f.plural(times.length, 'minute')}`;
  const well = d.requests.map((n, i) => Math.max(0, n - d.failures[i]));
  return html`<p class="quiet num">${text}.</p>
    <${Chart} times=${times} stacked height=${130} text=${text} format=${f.compact} series=${[
      { label: 'Failed', c: 'c-bad', kind: 'bars', values: d.failures },
      ...(asked ? [{ label: 'Well', c: 'c-idle', kind: 'bars', values: well }] : []),
    ]} />`;
}

/** A list of events. @param {{list: object[], label: string, who?: boolean, most?: number}} p */
export function Events({ list, label, who = false, most = 50 }) {
  return html`<ul class="events" aria-label=${label}>${list.slice(0, most).map((e) => html`<li key=${e.seq}>
    <${Dot} level=${severityLevel[e.severity] ?? 'idle'} />
    <span class="what"><span class="sr">${e.severity}: </span>${e.text}${e.count > 1 && html` <${Badge}>×${f.count(e.count)}<//>`}${who && html`<br /><span class="who">${e.dependency}</span>`}</span>
    <time datetime=${e.at} title=${f.moment(e.at)}>${f.clock(e.at)}</time>
  </li>`)}</ul>`;
}
