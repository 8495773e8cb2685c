// The keys, in a dialog.
import { html, useLayoutEffect, useRef } from '../lib.js';
import { Icon } from './icons.js';

/** @param {{pages: {id: string, label: string, key: string}[], onClose: () => void}} p */
export function Help({ pages, onClose }) {
  const dialog = useRef(null);
  useLayoutEffect(() => { dialog.current.showModal(); }, []);
  const keys = [
    ...pages.map((p) => [['g', p.key], p.label]),
    [['/'], 'Search or filter'],
    [['Space'], 'Pause the requests (on their page)'],
    [['↑', '↓'], 'Walk through a list'],
    [['Enter'], 'Open what is selected'],
    [['Esc'], 'Close the details'],
    [['?'], 'These shortcuts'],
  ];
  return html`<dialog class="dialog" ref=${dialog} onClose=${onClose} aria-labelledby="help-title">
    <header><h2 id="help-title">Keyboard shortcuts</h2>
      <button type="button" class="button quiet icon" onClick=${() => dialog.current.close()} aria-label="Close"><${Icon} name="close" /></button></header>
    <div class="body"><table class="table"><caption class="sr">Keys and what they do</caption>
      <thead class="sr"><tr><th scope="col">Key</th><th scope="col">What it does</th></tr></thead>
      <tbody>${keys.map(([k, what]) => html`<tr key=${what}><td>${k.map((c, i) => html`${i > 0 && ' '}<kbd>${c}</kbd>`)}</td><td>${what}</td></tr>`)}</tbody></table></div>
  </dialog>`;
}
