// Small line drawings. They say nothing that a text beside them does not say.
import { html } from '../lib.js';

const paths = {
  topology: 'M3 4h4v4H3zM13 2h4v4h-4zM13 14h4v4h-4zM7 6h3v10h3M10 4h3',
  requests: 'M3 5h14M3 10h9M3 15h11',
  usage: 'M4 17V9M9 17V4M14 17v-6M2 17h16',
  cache: 'M4 5c0-1.700 12-1.700 12 0v10c0 1.700-12 1.700-12 0zM4 5c0 1.700 12 1.700 12 0M4 10c0 1.700 12 1.700 12 0',
  sessions: 'M3 4h11v8H8l-3 3v-3H3zM16 7h1.500v7H16v2.500L13.500 14H10',
  config: 'M4 5h6M14 5h2M4 15h2M10 15h6M12 3v4M8 13v4',
  playground: 'M6 4l9 6-9 6z',
  setup: 'M7 6l-4 4 4 4M13 6l4 4-4 4',
  sun: 'M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM10 2v1.500M10 16.500V18M2 10h1.500M16.500 10H18M4.400 4.400l1 1M14.600 14.600l1 1M4.400 15.600l1-1M14.600 5.400l1-1',
  moon: 'M16 12.200A6.800 6.800 0 0 1 7.800 4 6.800 6.800 0 1 0 16 12.200z',
  keyboard: 'M2.500 5.500h15v9h-15zM5.500 8.500h0M8.500 8.500h0M11.500 8.500h0M14.500 8.500h0M6.500 11.700h7',
  out: 'M8 4H4v12h4M12 6l4 4-4 4M16 10H8',
  close: 'M5 5l10 10M15 5L5 15',
  copy: 'M7 7h9v9H7zM13 7V4H4v9h3',
  done: 'M4 10.500l4 4 8-9',
  pause: 'M7 4v12M13 4v12',
  play: 'M6 4l9 6-9 6z',
  down: 'M5 8l5 5 5-5',
  right: 'M8 5l5 5-5 5',
  search: 'M9 4a5 5 0 1 0 0 10A5 5 0 0 0 9 4zM13 13l4 4',
  stop: 'M5 5h10v10H5z',
  send: 'M3 10h13M11 5l5 5-5 5',
};

/** @param {{name: keyof typeof paths}} p */
export function Icon({ name }) {
  return html`<svg viewBox="0 0 20 20" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.600" stroke-linecap="round" stroke-linejoin="round">
    <path d=${paths[name]} />
  </svg>`;
}
