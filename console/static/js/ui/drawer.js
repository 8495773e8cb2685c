// Details of one thing, beside the page.
import { html, useLayoutEffect, useRef } from '../lib.js';
import { Icon } from './icons.js';

/**
 * A panel at the right. It does not lock the page: what is live goes on beside it. Escape closes it, and the focus goes back.
 * @param {{eyebrow: string, title: string, onClose: () => void, of: string}} p of names what is shown: another one takes the focus
 */
export function Drawer({ eyebrow, title, onClose, of, children }) {
  const heading = useRef(null);
  const before = useRef(null);
  // At once, before anything else can take the focus.
  useLayoutEffect(() => {
    before.current = document.activeElement;
    document.documentElement.classList.add('has-drawer');
    return () => {
      document.documentElement.classList.remove('has-drawer');
      if (before.current?.isConnected) before.current.focus({ preventScroll: true });
      else document.getElementById('main')?.focus({ preventScroll: true });
    };
  }, []);
  useLayoutEffect(() => heading.current?.focus({ preventScroll: true }), [of]);
  useLayoutEffect(() => {
    const key = (e) => {
      if (e.key !== 'Escape' || e.defaultPrevented || document.querySelector('dialog[open]')) return;
      e.preventDefault();
      onClose();
    };
    addEventListener('keydown', key);
    return () => removeEventListener('keydown', key);
  }, [onClose]);
  return html`<aside class="drawer" aria-label=${`${eyebrow}: ${title}`}>
    <header>
      <div><p class="eyebrow">${eyebrow}</p><h2 tabindex="-1" ref=${heading}>${title}</h2></div>
      <button type="button" class="button quiet icon" onClick=${onClose} aria-label="Close the details" title="Close (Esc)"><${Icon} name="close" /></button>
    </header>
    <div class="body">${children}</div>
  </aside>`;
}
