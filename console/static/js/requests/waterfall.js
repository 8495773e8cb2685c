// How long each part of a request took, as bars on one scale. A table, so that it can be read as well as seen.
import { html, useMemo } from '../lib.js';
import * as f from '../format.js';

/** What lies between two moments that follow each other, by their names. The first pair that is known is shown. */
const parts = [
  { name: 'Receive the request', from: 'start', to: 'received', level: 'in' },
  { name: 'Decide', from: 'received', to: 'decided', level: 'weir' },
  { name: 'Reach the backend', from: 'decided', to: 'sent', level: 'wait' },
  { name: 'Send the request', from: 'sent', to: 'sentAll', level: 'in' },
  { name: 'Wait for the answer', from: 'sentAll', to: 'firstByte', level: 'wait' },
  { name: 'Wait for the first token', from: 'firstByte', to: 'firstToken', level: 'wait' },
  { name: 'Answer', from: 'firstToken', to: 'lastByte', or: 'firstByte', level: 'out' },
  { name: 'Finish', from: 'lastByte', to: 'done', level: 'weir' },
];

/**
 * The bars of a request: parts between its moments, and its attempts. Pure.
 * @param {{timeline: {name: string, atSeconds: number}[], tried: object[], durationSeconds: number}} r
 * @returns {{name: string, start: number, length: number, level: string}[]}
 */
export function bars(r) {
  const at = new Map([['start', 0], ...r.timeline.map((m) => [m.name, m.atSeconds])]);
  const out = [];
  for (const p of parts) {
    const start = at.get(p.from) ?? at.get(p.or);
    const end = at.get(p.to);
    if (start === undefined || end === undefined || end < start) continue;
    out.push({ name: p.name, start, length: end - start, level: p.level });
  }
  // A single attempt is what the other parts are about.
  if (r.tried.length > 1) {
    for (const a of r.tried) out.push({ name: `Attempt ${a.n}: ${f.shortID(a.backend)}`, start: a.startSeconds, length: a.durationSeconds, level: a.failed ? 'bad' : 'out' });
    out.sort((x, y) => x.start - y.start);
  }
  return out;
}

/** @param {{r: object}} p a Request */
export function Waterfall({ r }) {
  const list = useMemo(() => bars(r), [r]);
  const whole = Math.max(r.durationSeconds, ...list.map((b) => b.start + b.length), 1e-6);
  if (list.length === 0) return html`<p class="quiet">No moments are known yet.</p>`;
  return html`<table class="falls num"><caption class="sr">Parts of the request: when each began, and how long it took</caption>
    <thead class="sr"><tr><th scope="col">Part</th><th scope="col">When</th><th scope="col">Took</th></tr></thead>
    <tbody>${list.map((b, i) => html`<tr key=${i}><th scope="row">${b.name}</th>
      <td><span class="sr">after ${f.duration(b.start)}</span><span class="track" aria-hidden="true"><i class=${b.level} style=${{ left: `${(b.start / whole) * 100}%`, width: `${(b.length / whole) * 100}%` }} /></span></td>
      <td class="n">${f.duration(b.length)}</td></tr>`)}</tbody></table>
    <p class="axis num" aria-hidden="true"><span>0</span><span>${f.duration(whole / 2)}</span><span>${f.duration(whole)}</span></p>`;
}
