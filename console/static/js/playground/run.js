// One request of the playground, from its first byte to its last. What it has brought is a signal, which outlives a look at another page.
import { signal } from '../lib.js';
import { Refused, request } from '../net.js';
import { add, nothing, sseReader } from './dialects.js';

/**
 * @typedef {{state: 'running'|'done'|'failed'|'stopped', problem: string, status: number, headers: [string, string][], requestId: string,
 *   answer: ReturnType<typeof nothing>, raw: string[], dropped: number, firstToken: number, duration: number, stream: boolean}} Run
 */

/** The last request; null before the first. */
export const run = signal(/** @type {Run|null} */ (null));

/** How many raw events are kept. */
const RAW = 500;

let abort = null;

/** Ends the request that runs. */
export function stop() { abort?.abort(); }

/**
 * Sends a request and follows its answer.
 * @param {import('./dialects.js').Dialect} dialect
 * @param {{path: string, headers: Record<string, string>, body: object}} what
 * @param {string} key it is sent with this one request, and kept nowhere
 */
export async function send(dialect, what, key) {
  stop();
  const mine = (abort = new AbortController());
  const began = performance.now();
  const since = () => (performance.now() - began) / 1000;
  let r = { state: 'running', problem: '', status: 0, headers: [], requestId: '', answer: nothing(), raw: [], dropped: 0, firstToken: 0, duration: 0, stream: false };
  let frame = 0;
  const show = () => {
    // Tokens come faster than frames: the page is drawn once for each of these.
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; if (abort === mine) run.value = r; });
  };
  run.value = r;
  try {
    const resp = await request('api/playground', { method: 'POST', body: { path: what.path, headers: what.headers, key, body: what.body }, signal: mine.signal });
    const headers = [...resp.headers].filter(([k]) => !/^(date|content-length|cache-control|vary|x-content-type-options|x-frame-options|content-security-policy|referrer-policy|cross-origin-.*|permissions-policy)$/.test(k));
    const status = Number(resp.headers.get('x-weir-playground-status')) || resp.status;
    r = { ...r, headers, status, requestId: resp.headers.get('x-request-id') ?? '', stream: /event-stream/.test(resp.headers.get('content-type') ?? '') };
    const take = (text) => {
      const o = parse(text);
      const piece = o ? dialect.read(o) : {};
      if ((piece.text || piece.thinking) && !r.firstToken) r = { ...r, firstToken: since() };
      r = { ...r, answer: add(r.answer, piece) };
    };
    const reader = resp.body.pipeThrough(new TextDecoderStream()).getReader();
    const events = sseReader((name, data) => {
      const raw = [...r.raw, name === 'message' ? data : `${name}  ${data}`];
      r = { ...r, raw: raw.slice(-RAW), dropped: r.dropped + Math.max(0, raw.length - RAW) };
      take(data);
    });
    let whole = '';
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      if (r.stream) events(chunk.value);
      else whole += chunk.value;
      r = { ...r, duration: since() };
      show();
    }
    if (!r.stream) {
      take(whole);
      r = { ...r, raw: [pretty(whole)] };
    }
    r = { ...r, state: status >= 400 || r.answer.error ? 'failed' : 'done', duration: since() };
  } catch (err) {
    if (mine.signal.aborted) r = { ...r, state: 'stopped', duration: since() };
    else r = { ...r, state: 'failed', duration: since(), problem: err instanceof Refused ? err.message : 'The answer broke off.' };
  }
  cancelAnimationFrame(frame);
  if (abort === mine) run.value = r;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // "[DONE]", or text that is no JSON: the raw events show it
  }
}

function pretty(text) {
  const o = parse(text);
  return o ? JSON.stringify(o, null, 2) : text;
}
