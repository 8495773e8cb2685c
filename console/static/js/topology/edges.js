// The lines between the columns: as wide as the traffic, in the colour of its errors. They are a picture of what the nodes say in words,
// so a screen reader does not meet them, and a narrow screen, where the columns are below each other, has none.
import { computed, html, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../lib.js';
import * as f from '../format.js';
import { edgeKey, edgeLevel, edgeRates, failedWord } from '../model.js';
import { model } from '../stream.js';
import { moved, shown, sum } from './shown.js';
import { place } from '../router.js';

/** Rows of endpoints up to which each has a line of its own. */
export const LINES = 12;

/**
 * @param {{root: {current: HTMLElement}}} p the element that the nodes are in
 */
export function Edges({ root }) {
  const [paths, setPaths] = useState([]);
  const last = useRef('');
  const s = shown.value;
  void moved.value;
  void model.tick.value;

  useLayoutEffect(() => {
    const frame = requestAnimationFrame(() => {
      const next = lay(root.current, s);
      const text = JSON.stringify(next);
      if (text === last.current) return;
      last.current = text;
      setPaths(next);
    });
    return () => cancelAnimationFrame(frame);
  });
  useEffect(() => {
    const seen = new ResizeObserver(() => { moved.value++; });
    seen.observe(root.current);
    return () => seen.disconnect();
  }, []);

  const node = place.value.params.node ?? '';
  return html`<svg class="edges" aria-hidden="true">${paths.map((p) => html`<${Line} key=${p.key} p=${p} near=${node && (p.a === node || p.b === node)} />`)}</svg>`;
}

/** Where the lines go now. @returns {{key: string, a: string, b: string, d: string, edges: string[][]}[]} */
function lay(root, s) {
  if (!root || !s || getComputedStyle(root).getPropertyValue('--edges').trim() !== '1') return [];
  const box = root.getBoundingClientRect();
  const nodes = new Map();
  for (const n of root.querySelectorAll('[data-node]')) {
    const r = n.getBoundingClientRect();
    nodes.set(n.dataset.node, { left: r.left - box.left, right: r.right - box.left, y: r.top - box.top + Math.min(r.height / 2, 26) });
  }
  const out = [];
  const line = (a, b, edges) => {
    const from = nodes.get(a);
    const to = nodes.get(b);
    if (!from || !to) return;
    const x1 = Math.round(from.right);
    const x2 = Math.round(to.left);
    const bend = Math.round((x2 - x1) / 2);
    out.push({ key: `${a} ${b}`, a, b, d: `M${x1} ${Math.round(from.y)}C${x1 + bend} ${Math.round(from.y)} ${x2 - bend} ${Math.round(to.y)} ${x2} ${Math.round(to.y)}`, edges });
  };
  for (const c of s.clients) for (const r of s.routes) if (model.edges.has(edgeKey('client', c.id, r.id))) line(`client:${c.id}`, `route:${r.id}`, [['client', c.id, r.id]]);
  for (const r of s.routes) for (const b of new Set(r.backends.map((t) => t.backend))) line(`route:${r.id}`, `backend:${b}`, [['route', r.id, b]]);
  for (const p of s.pools) {
    if (p.endpoints.length > LINES) line(`backend:${p.id}`, `pool:${p.id}`, p.endpoints.map((e) => ['backend', p.id, e.id]));
    else for (const e of p.endpoints) line(`backend:${p.id}`, `endpoint:${e.id}`, [['backend', p.id, e.id]]);
  }
  return out;
}

/** One line. It is drawn again when its own traffic changes, and at no other time. */
function Line({ p, near }) {
  const many = p.edges.length === 1 ? p.edges[0].join(' ') : `${p.key} ${p.edges.length}`;
  const rates = useMemo(() => {
    const signals = p.edges.map(([kind, from, to]) => edgeRates(model, kind, from, to));
    return signals.length === 1 ? signals[0] : computed(() => sum(signals));
  }, [many]).value;
  const level = edgeLevel(rates);
  const width = level === 'idle' ? 1.2 : Math.min(11, 1.8 + 1.35 * Math.log2(1 + rates.requestsPerSecond + rates.inFlight / 4));
  const [, a] = split(p.a);
  const [, b] = split(p.b);
  return html`<g class=${`edge ${level} ${near ? 'near' : ''}`}>
    <title>${`${a} → ${b}\n${f.rate(rates.requestsPerSecond)} requests/s, ${f.rate(rates.errorsPerSecond)} ${failedWord(p.edges[0][0])}/s, ${f.rate(rates.tokensPerSecond)} tokens/s, ${f.count(rates.inFlight)} in flight`}</title>
    <path class="hit" d=${p.d} /><path d=${p.d} style=${{ strokeWidth: `${width.toFixed(1)}px` }} />
  </g>`;
}

const split = (node) => {
  const i = node.indexOf(':');
  return [node.slice(0, i), f.shortID(node.slice(i + 1))];
};
