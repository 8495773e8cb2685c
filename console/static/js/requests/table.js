// The table of requests. A row is drawn again when its own request changes.
import { Component, html, useRef } from '../lib.js';
import * as f from '../format.js';
import { link } from '../router.js';
import { Badge, Scroll } from '../ui/parts.js';

export const outcomes = { running: 'run', ok: 'ok', refused: 'warn', failed: 'bad', aborted: 'warn', interrupted: 'bad' };

/** An outcome as a badge, with the status where there was one. @param {{r: object}} p */
export const Outcome = ({ r }) => html`<${Badge} level=${outcomes[r.outcome] ?? ''} dot title=${r.reason}>${r.status ? `${r.status} ` : ''}${r.outcome === 'ok' && r.status ? html`<span class="sr">ok</span>` : r.outcome}<//>`;

/** What came of the cache, as a badge; nothing where no policy covers the request. @param {{r: object}} p */
export const FromCache = ({ r }) => (r.cache ? html` <${Badge} level=${caches[r.cache] ?? ''} title=${`Cache: ${r.cache}`}><span class="sr">cache </span>${r.cache}<//>` : null);

const caches = { hit: 'ok', stale: 'ok', shared: 'ok', negative: 'warn', bypass: 'plain' };

/** A count of tokens. While a request runs, what is 0 is not known yet. */
const count = (r, n) => (r.outcome === 'running' && !n ? f.NONE : f.compact(n));

/** Tokens read and written. @param {{r: object}} p */
export const Tokens = ({ r }) => (r.inputTokens + r.outputTokens > 0
  ? html`${r.estimated ? '≈ ' : ''}${count(r, r.inputTokens)} <span class="quiet" aria-hidden="true">→</span><span class="sr"> in, </span> ${count(r, r.outputTokens)}<span class="sr"> out</span>`
  : f.NONE);

/** @param {{running: object[], recent: object[], selected: string, onOpen: (r: object) => void, params: object}} p */
export function RequestTable({ running, recent, selected, onOpen, params }) {
  const body = useRef(null);
  // Arrows walk from row to row; the link in a row is what has the focus.
  const walk = (e) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (!step || !e.target.closest('tr')) return;
    const links = [...body.current.querySelectorAll('a.open')];
    const next = links[links.indexOf(e.target) + step];
    if (next) {
      e.preventDefault();
      next.focus();
    }
  };
  const longest = Math.max(0.001, ...recent.slice(0, 100).map((r) => r.durationSeconds));
  // Rounded up to a power of two, so that one slow request more does not draw every bar again.
  const scale = 2 ** Math.ceil(Math.log2(longest));
  const row = (r) => html`<${Row} key=${r.id} r=${r} open=${r.id === selected} onOpen=${onOpen} params=${params} scale=${scale} />`;
  return html`<${Scroll} label="Requests"><table class="table req" onKeyDown=${walk}>
    <caption class="sr">Running and recent requests, newest first</caption>
    <thead><tr>
      <th scope="col" class="w-time">Time</th><th scope="col" class="w-outcome">Outcome</th><th scope="col" class="less w-caller">Caller</th><th scope="col">Model</th><th scope="col" class="wide">Route</th><th scope="col" class="less w-backend">Backend</th>
      <th scope="col" class="n less w-ttft" title="Time to the first token">TTFT</th><th scope="col" class="n w-duration">Duration</th>
      <th scope="col" class="n w-tokens" title="Tokens read and written">Tokens</th><th scope="col" class="n less w-cost">Cost</th>
    </tr></thead>
    <tbody ref=${body}>${running.map(row)}${recent.map(row)}</tbody>
  </table><//>`;
}

class Row extends Component {
  shouldComponentUpdate(next) {
    const a = this.props;
    return a.open !== next.open || a.scale !== next.scale || a.params !== next.params || a.r !== next.r && JSON.stringify(a.r) !== JSON.stringify(next.r);
  }

  render({ r, open, onOpen, params, scale }) {
    const part = Math.min(1, r.durationSeconds / scale);
    return html`<tr class=${`o-${r.outcome} ${open ? 'open' : ''}`} onClick=${(e) => { if (!e.target.closest('a') && !String(getSelection())) onOpen(r); }}>
      <td class="at"><a class="open num" href=${link('requests', r.id, params)} aria-current=${open ? 'true' : undefined} aria-label=${`Request of ${f.clock(r.at)}, ${r.model || r.operation || ''}`}>${f.clock(r.at)}</a></td>
      <td><${Outcome} r=${r} /><${FromCache} r=${r} />${r.reason && r.outcome !== 'ok' && html`<span class="reason" title=${r.reason}>${r.reason}</span>`}</td>
      <td class="less"><span class="cut">${r.consumer || html`<span class="quiet">unknown</span>`}</span>${r.tenant && r.tenant !== r.consumer && html`<span class="under">${r.tenant}</span>`}</td>
      <td><span class="cut" title=${r.model}>${r.model || f.NONE}</span>${(r.stream || r.purpose) && html`<span class="under" title=${r.purpose && 'Weir asked by itself, for this consumer'}>${[r.purpose && `${r.purpose} by Weir`, r.stream && 'stream'].filter(Boolean).join(' · ')}</span>`}</td>
      <td class="wide"><span class="cut">${f.shortID(r.route) || f.NONE}</span></td>
      <td class="less"><span class="cut">${f.shortID(r.backend) || f.NONE}</span>${(r.endpoint || r.attempts > 1) && html`<span class="under">${r.endpoint}${r.attempts > 1 && html` <b class="again">${r.attempts} attempts</b>`}</span>`}</td>
      <td class="n less">${r.ttftSeconds > 0 ? f.duration(r.ttftSeconds) : f.NONE}</td>
      <td class="n dur">${f.duration(r.durationSeconds)}<span class="bar thin" style=${{ '--v': part }} aria-hidden="true"><i /></span></td>
      <td class="n"><${Tokens} r=${r} /></td>
      <td class="n less">${r.cost && Number(r.cost) > 0 ? f.money(r.cost, r.currency) : f.NONE}</td>
    </tr>`;
  }
}
