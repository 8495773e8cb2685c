// Small parts that every page uses.
import { html, signal, useEffect, useId, useRef, useState } from '../lib.js';
import * as f from '../format.js';
import { Icon } from './icons.js';

/** What a screen reader is told, politely: the result of an action, never the stream of figures. */
export const announcement = signal('');

/** Says something to those who cannot see that it happened. */
export function announce(text) {
  announcement.value = '';
  setTimeout(() => { announcement.value = text; }, 50);
}

/** Now, to the second: for what is "3 s ago". One clock for all. */
export const now = signal(Date.now());
setInterval(() => { if (!document.hidden) now.value = Date.now(); }, 1000);

/** A state by colour and shape; the words stand beside it. @param {{level: string}} p */
export const Dot = ({ level }) => html`<span class=${`dot ${level}`} aria-hidden="true" />`;

/** A word on a coloured ground. @param {{level?: string, dot?: boolean, title?: string}} p */
export const Badge = ({ level = '', dot, title, children }) => html`<span class=${`badge ${level}`} title=${title}>${dot && html`<${Dot} level=${level || 'idle'} />`}${children}</span>`;

/** A part of a whole as a bar; the figure stands beside it. @param {{value: number, level?: string}} p 0 to 1 */
export const Bar = ({ value, level = '' }) => html`<span class=${`bar ${level}`} style=${{ '--v': Math.max(0, Math.min(1, value || 0)) }} aria-hidden="true"><i /></span>`;

/** How full is too full. */
export const fullness = (v) => (v >= 0.95 ? 'bad' : v >= 0.8 ? 'warn' : '');

/** A point of time: exact for the pointer, relative to read. @param {{at: string}} p */
export const Ago = ({ at }) => html`<time datetime=${at} title=${f.moment(at)}>${f.ago(at, now.value)}</time>`;

/** Puts text on the clipboard. @param {{text: string, label: string, quiet?: boolean}} p label says what it is: "trace ID" */
export function CopyButton({ text, label, small = true }) {
  const [done, setDone] = useState(false);
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async () => {
    const ok = await toClipboard(text);
    setDone(ok);
    announce(ok ? `Copied the ${label}` : 'The browser does not let this page copy');
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setDone(false), 1600);
  };
  return html`<button type="button" class=${`button quiet icon ${small ? 'small' : ''}`} onClick=${copy} aria-label=${`Copy the ${label}`} title=${`Copy the ${label}`}>
    <${Icon} name=${done ? 'done' : 'copy'} />
  </button>`;
}

/** The clipboard of browsers that have one for this page, and the old way over plain HTTP, where they do not. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = document.createElement('textarea');
    box.value = text;
    box.className = 'sr';
    document.body.append(box);
    box.select();
    const ok = document.execCommand('copy');
    box.remove();
    return ok;
  }
}

/** An identifier that can be copied. @param {{text: string, label: string}} p */
export const Copyable = ({ text, label }) => (text ? html`<span class="copy"><code>${text}</code><${CopyButton} text=${text} label=${label} /></span>` : f.NONE);

/** What stands where there is nothing. @param {{title: string}} p */
export const Empty = ({ title, children }) => html`<div class="empty"><strong>${title}</strong>${children}</div>`;

/** Why something is not shown. */
export const Problem = ({ children }) => html`<p class="error-box" role="alert">${children}</p>`;

/** Tabs after the pattern of ARIA: arrows move, the tab stops once. @param {{tabs: {id: string, label: string, count?: number}[], at: string, onPick: (id: string) => void, label: string}} p */
export function Tabs({ tabs, at, onPick, label, children }) {
  const base = useId();
  const list = useRef(null);
  const move = (e) => {
    const i = tabs.findIndex((t) => t.id === at);
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    onPick(next.id);
    list.current.querySelector(`[data-tab="${next.id}"]`)?.focus();
  };
  return html`
    <div class="tabs" role="tablist" aria-label=${label} ref=${list} onKeyDown=${move}>
      ${tabs.map((t) => html`<button key=${t.id} type="button" role="tab" id=${`${base}-${t.id}`} data-tab=${t.id} aria-selected=${String(t.id === at)} aria-controls=${`${base}-panel`} tabindex=${t.id === at ? 0 : -1} onClick=${() => onPick(t.id)}>
        ${t.label}${t.count !== undefined && html` <${Badge} level=${t.level ?? ''}>${f.count(t.count)}<//>`}
      </button>`)}
    </div>
    <div role="tabpanel" id=${`${base}-panel`} aria-labelledby=${`${base}-${at}`} tabindex="-1">${children}</div>`;
}

/** A choice of a few, all in sight. @param {{label: string, options: {id: string, label: string}[], at: string, onPick: (id: string) => void}} p */
export function Segments({ label, options, at, onPick }) {
  const name = useId();
  return html`<div class="segments" role="radiogroup" aria-label=${label}>
    ${options.map((o) => html`<label key=${o.id}><input type="radio" name=${name} checked=${o.id === at} onChange=${() => onPick(o.id)} />${o.label}</label>`)}
  </div>`;
}

/** A field with its label. @param {{label: string, hint?: string}} p children gets the id */
export function Field({ label, hint, children }) {
  const id = useId();
  return html`<div class="field"><label for=${id}>${label}</label>${children(id)}${hint && html`<span class="hint" id=${`${id}-hint`}>${hint}</span>`}</div>`;
}

/** A selection with "all" on top. @param {{label: string, all: string, options: string[], value: string, onPick: (v: string) => void}} p */
export function Select({ label, all, options, value, onPick, name = (v) => v }) {
  const list = value && !options.includes(value) ? [value, ...options] : options;
  return html`<select class="input" aria-label=${label} value=${value} onChange=${(e) => onPick(e.target.value)}>
    <option value="">${all}</option>
    ${list.map((v) => html`<option key=${v} value=${v}>${name(v)}</option>`)}
  </select>`;
}

/** A box that scrolls sideways where its content is too wide; then, and only then, it is a stop of Tab. @param {{label: string}} p */
export function Scroll({ label, children }) {
  const box = useRef(null);
  useEffect(() => {
    const el = box.current;
    const look = () => {
      const over = el.scrollWidth > el.clientWidth;
      if (over === el.hasAttribute('tabindex')) return;
      for (const [name, value] of [['tabindex', '0'], ['role', 'region'], ['aria-label', label]]) {
        if (over) el.setAttribute(name, value);
        else el.removeAttribute(name);
      }
    };
    look();
    const seen = new ResizeObserver(look);
    seen.observe(el);
    if (el.firstElementChild) seen.observe(el.firstElementChild);
    return () => seen.disconnect();
  }, [label]);
  return html`<div class="scroll" ref=${box}>${children}</div>`;
}

/** A unified diff, line by line. @param {{text: string, label: string}} p */
export function Diff({ text, label }) {
  const kind = (l) => (l.startsWith('@@') || l.startsWith('+++') || l.startsWith('---') ? 'at' : l[0] === '+' ? 'add' : l[0] === '-' ? 'del' : 'ctx');
  return html`<pre class="code" tabindex="0" role="region" aria-label=${label}>${text.replace(/\n$/, '').split('\n').map((l, i) => html`<span key=${i} class=${kind(l)}>${l || ' '}</span>`)}</pre>`;
}

/** Text to read and copy. @param {{text: string, label: string}} p */
export const Code = ({ text, label }) => html`<div class="code-box"><pre class="code" tabindex="0" role="region" aria-label=${label}>${text}</pre><${CopyButton} text=${text} label=${label} small=${false} /></div>`;
