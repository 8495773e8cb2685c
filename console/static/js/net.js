// Questions to the admin server. Paths are relative, so that the console works below any prefix of a proxy.
import { signal } from './lib.js';

/** Rises when the server no longer knows who asks: see session.js. */
export const unauthorized = signal(0);

/** An answer that is no success. */
export class Refused extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Asks for JSON.
 * @param {string} path relative: "api/status"
 * @param {{method?: string, body?: unknown, signal?: AbortSignal}} [o]
 */
export async function ask(path, o = {}) {
  const resp = await request(path, o);
  if (resp.status === 204) return null;
  return resp.json();
}

/** The same, for an answer that is read as it comes. @returns {Promise<Response>} */
export async function request(path, { method = 'GET', body, signal: abort } = {}) {
  let resp;
  try {
    resp = await fetch(path, {
      method, signal: abort, credentials: 'same-origin', cache: 'no-store',
      headers: body === undefined ? { accept: 'application/json' } : { accept: 'application/json', 'content-type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (err) {
    if (err.name === 'AbortError') throw err;
    throw new Refused(0, 'Weir does not answer. Is it still running?');
  }
  if (resp.ok) return resp;
  if (resp.status === 401) unauthorized.value++;
  throw new Refused(resp.status, await reason(resp));
}

/** The sentence in an answer that is an error. */
async function reason(resp) {
  const text = await resp.text().catch(() => '');
  try {
    const { error } = JSON.parse(text);
    if (typeof error === 'string') return error;
    if (error?.message) return error.message;
  } catch {
    // It is plain text.
  }
  return text.trim().slice(0, 500) || `Weir answered with status ${resp.status}.`;
}

/** A query string of the values that are not empty. */
export function query(values) {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(values)) if (v !== undefined && v !== null && v !== '') q.set(k, v);
  const s = q.toString();
  return s && `?${s}`;
}
