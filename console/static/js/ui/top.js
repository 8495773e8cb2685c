// The head of every page.
import { html } from '../lib.js';
import * as f from '../format.js';
import { connection, model } from '../stream.js';

/** The head of a page: its title, what it is about now, and whether that is live. @param {{title: string, sub?: unknown}} p */
export function Top({ title, sub, children }) {
  return html`<div class="top">
    <h1>${title}</h1>${sub && html`<span class="sub">${sub}</span>`}<span class="spring" />${children}<${Live} />
  </div>`;
}

function Live() {
  const state = connection.value;
  const word = { live: 'Live', lost: 'Not connected', connecting: 'Connecting…', resting: 'Resting' }[state];
  return html`<span class=${`link ${state}`}><i aria-hidden="true" />${word}${state === 'live' && model.at.value && html`<span class="num" aria-hidden="true">${f.clock(model.at.value)}</span>`}</span>`;
}
