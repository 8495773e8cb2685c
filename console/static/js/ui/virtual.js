// A long list of which only the rows in sight are in the page.
import { html, useLayoutEffect, useRef, useState } from '../lib.js';

const OVERSCAN = 6;

/**
 * Rows of one height in a box that scrolls. Each row has one link or button; arrows walk through them, and Tab stops once.
 * @param {{items: {id: string}[], height: number, most: number, label: string, row: (item: any, index: number) => any}} p height of a row and the most of the box, in pixels
 */
export function VirtualList({ items, height, most, label, row }) {
  const box = useRef(null);
  const [top, setTop] = useState(0);
  const [at, setAt] = useState(0);
  const wanted = useRef(-1);
  const from = Math.max(0, Math.floor(top / height) - OVERSCAN);
  const to = Math.min(items.length, Math.ceil((top + most) / height) + OVERSCAN);
  const stop = Math.min(Math.max(at, from), to - 1);

  // The focus goes to a row once it is in the page; only one row is a stop of Tab.
  useLayoutEffect(() => {
    const rows = box.current.querySelectorAll('li');
    rows.forEach((li, i) => {
      const target = li.querySelector('a, button');
      if (target) target.tabIndex = from + i === stop ? 0 : -1;
      if (from + i === wanted.current) {
        wanted.current = -1;
        target?.focus({ preventScroll: true });
      }
    });
  });

  const key = (e) => {
    const page = Math.max(1, Math.floor(most / height) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -items.length, End: items.length }[e.key];
    if (step === undefined) return;
    e.preventDefault();
    const next = Math.min(items.length - 1, Math.max(0, stop + step));
    wanted.current = next;
    setAt(next);
    const y = next * height;
    const el = box.current;
    if (y < el.scrollTop) el.scrollTop = y;
    else if (y + height > el.scrollTop + el.clientHeight) el.scrollTop = y + height - el.clientHeight;
    setTop(el.scrollTop);
  };

  return html`<div class="virtual" ref=${box} style=${{ maxHeight: `${most}px` }} onScroll=${(e) => setTop(e.currentTarget.scrollTop)} onKeyDown=${key}>
    <ul class="rows" aria-label=${label} style=${{ paddingTop: `${from * height}px`, paddingBottom: `${(items.length - to) * height}px` }}>
      ${items.slice(from, to).map((item, i) => row(item, from + i))}
    </ul>
  </div>`;
}
