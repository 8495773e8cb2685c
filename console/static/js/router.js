// Where the reader is: "#/requests/abc?backend=default%2Fgpus". The part behind the # never reaches a server, so every address can be
// opened, whatever stands before the console.
import { signal } from './lib.js';

/** @typedef {{page: string, id: string, params: Record<string, string>}} Place */

/** @param {string} hash @returns {Place} */
export function parse(hash) {
  const [path, search = ''] = hash.replace(/^#\/?/, '').split('?');
  const [page, ...rest] = path.split('/');
  let id = rest.join('/');
  try {
    id = decodeURIComponent(id);
  } catch {
    // Not ours; it is looked for as it is written.
  }
  return { page: page || 'topology', id, params: Object.fromEntries(new URLSearchParams(search)) };
}

/** @param {string} page @param {string} [id] @param {Record<string, string|undefined>} [params] */
export function link(page, id = '', params = {}) {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(params)) if (v) q.set(k, v);
  const s = q.toString();
  return `#/${page}${id ? `/${encodeURIComponent(id)}` : ''}${s ? `?${s}` : ''}`;
}

/** The present place. */
export const place = signal(parse(location.hash));

addEventListener('hashchange', () => { place.value = parse(location.hash); });

/** Goes somewhere; with `replace` the way back leads past the present place. */
export function go(page, id, params, { replace = false } = {}) {
  const to = link(page, id, params);
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(null, '', to);
    place.value = parse(to);
  } else {
    location.hash = to;
  }
}

/** Changes parameters of the present page: those that are empty go. */
export function setParams(change, o = { replace: true }) {
  const { page, id, params } = place.value;
  go(page, id, { ...params, ...change }, o);
}
