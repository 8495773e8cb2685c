// A request of one's own through the gateway, and the way that it took.
import { html, signal, useEffect, useMemo, useState } from '../lib.js';
import * as f from '../format.js';
import { link } from '../router.js';
import { Badge, Code, CopyButton, Field, Problem, Tabs, announce } from '../ui/parts.js';
import { Icon } from '../ui/icons.js';
import { Top } from '../ui/top.js';
import { useFetched } from '../ui/fetched.js';
import { RequestBody } from '../requests/details.js';
import { outcomes } from '../requests/table.js';
import { dialects } from '../playground/dialects.js';
import { run, send, stop } from '../playground/run.js';

/** What is written in the form. It lives as long as the page, and nowhere else: the key is never stored. */
const form = signal({ dialect: 'openai', model: '', key: '', system: '', prompt: 'In one sentence: what does a weir do in a river?', stream: true, maxTokens: 256 });
const set = (change) => { form.value = { ...form.value, ...change }; };

const view = signal('answer');

/** How often the record of a request is asked for, half a second apart. */
const RECORD_TRIES = 6;

/** The page. */
export function Playground() {
  const { data: setup } = useFetched('api/setup');
  useEffect(() => {
    if (setup && !form.peek().model) set({ model: setup.models[0]?.id ?? '' });
  }, [setup]);
  return html`<${Top} title="Playground" sub="a request through this gateway, as a client sends it" />
    <div class="play"><${Form} models=${setup?.models ?? []} /><${Answer} /></div>`;
}

function Form({ models }) {
  const q = form.value;
  const dialect = dialects.find((d) => d.id === q.dialect);
  const what = dialect.request(q);
  const busy = run.value?.state === 'running';
  const submit = async (e) => {
    e.preventDefault();
    view.value = 'answer';
    announce('Sent');
    await send(dialect, what, q.key);
    const r = run.value;
    announce(r?.state === 'done' ? `Answered in ${f.duration(r.duration)}` : r?.state === 'stopped' ? 'Stopped' : 'The request failed');
  };
  const keys = (e) => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) e.currentTarget.form.requestSubmit();
  };
  return html`<form class="panel" onSubmit=${submit} aria-labelledby="play-form"><header><h2 id="play-form">Request</h2></header><div class="body stack">
    <div class="grid two">
      <${Field} label="Dialect">${(id) => html`<select class="input" id=${id} value=${q.dialect} onChange=${(e) => set({ dialect: e.target.value })}>${dialects.map((d) => html`<option key=${d.id} value=${d.id}>${d.label}</option>`)}</select>`}<//>
      <${Field} label="Model">${(id) => html`<input class="input" id=${id} list="play-models" required autocomplete="off" value=${q.model} onInput=${(e) => set({ model: e.target.value })} />
        <datalist id="play-models">${models.map((m) => html`<option key=${m.id} value=${m.id}>${f.shortID(m.backend)}</option>`)}</datalist>`}<//>
    </div>
    <${Field} label="API key" hint="Kept in this page's memory only, and sent with this request only.">${(id) => html`<input class="input" id=${id} type="password" autocomplete="off" spellcheck=${false} value=${q.key} onInput=${(e) => set({ key: e.target.value })} aria-describedby=${`${id}-hint`} />`}<//>
    <${Field} label="System (optional)">${(id) => html`<textarea class="input" id=${id} rows="2" value=${q.system} onInput=${(e) => set({ system: e.target.value })} />`}<//>
    <${Field} label="Prompt" hint="Ctrl+Enter sends it.">${(id) => html`<textarea class="input" id=${id} rows="5" required value=${q.prompt} onInput=${(e) => set({ prompt: e.target.value })} onKeyDown=${keys} aria-describedby=${`${id}-hint`} />`}<//>
    <div class="row wrap">
      <label class="check"><input type="checkbox" checked=${q.stream} onChange=${(e) => set({ stream: e.target.checked })} />Stream</label>
      <label class="check">at most <input class="input tokens" type="number" min="1" max="1000000" value=${q.maxTokens} onInput=${(e) => set({ maxTokens: Math.max(1, Number(e.target.value) || 1) })} /> tokens</label>
      <span class="spring" />
      ${busy && html`<button type="button" class="button" onClick=${stop}><${Icon} name="stop" />Stop</button>`}
      <button class="button primary" disabled=${busy || !q.model || !q.prompt}><${Icon} name="send" />Send</button>
    </div>
    <details><summary>What is sent</summary><p class="mono quiet">POST ${what.path}</p><${Code} text=${JSON.stringify(what.body, null, 2)} label="Body of the request" /></details>
  </div></form>`;
}

function Answer() {
  const r = run.value;
  if (!r) return html`<section class="panel" aria-labelledby="play-answer"><header><h2 id="play-answer">Answer</h2></header><div class="empty"><strong>Nothing was sent yet</strong>The answer, its events and headers, and the way of the request through the gateway appear here.</div></section>`;
  const a = r.answer;
  const speed = r.firstToken && a.output > 1 && r.duration > r.firstToken ? (a.output - 1) / (r.duration - r.firstToken) : 0;
  const tabs = [{ id: 'answer', label: 'Answer' }, { id: 'path', label: 'Path' }, { id: 'raw', label: r.stream ? 'Events' : 'Body', ...(r.stream && { count: r.raw.length + r.dropped }) }, { id: 'headers', label: 'Headers' }];
  return html`<section class="panel answer" aria-labelledby="play-answer"><header><h2 id="play-answer">Answer</h2>
      <${Verdict} r=${r} /><span class="spring" />
      ${r.requestId && html`<span class="copy"><code class="quiet">${r.requestId}</code><${CopyButton} text=${r.requestId} label="request ID" /></span>`}</header>
    <dl class="figures num"><div><dt>First token</dt><dd>${r.firstToken ? f.duration(r.firstToken) : f.NONE}</dd></div><div><dt>Duration</dt><dd>${f.duration(r.duration)}</dd></div>
      <div><dt>Tokens</dt><dd>${a.input === null && a.output === null ? f.NONE : `${a.input === null ? f.NONE : f.count(a.input)} → ${a.output === null ? f.NONE : f.count(a.output)}`}</dd></div><div><dt>Speed</dt><dd>${speed ? `${f.rate(speed)} tok/s` : f.NONE}</dd></div></dl>
    <div class="body"><${Tabs} label="Parts of the answer" tabs=${tabs} at=${view.value} onPick=${(id) => { view.value = id; }}>
      ${view.value === 'answer' && html`<${Text} r=${r} />`}
      ${view.value === 'path' && html`<${Path} r=${r} />`}
      ${view.value === 'raw' && html`<${Raw} r=${r} />`}
      ${view.value === 'headers' && html`<table class="table headers"><caption class="sr">Headers of the answer</caption><thead class="sr"><tr><th scope="col">Name</th><th scope="col">Value</th></tr></thead><tbody>${r.headers.map(([k, v]) => html`<tr key=${k}><th scope="row"><code>${k}</code></th><td class="any"><code>${v}</code></td></tr>`)}</tbody></table>`}
    <//></div></section>`;
}

/** How it went. Whether Weir refused it or a backend failed, the record of the request says, as on its page. */
function Verdict({ r }) {
  const wrong = r.state === 'failed' && r.status >= 400 && Boolean(r.requestId);
  const [tries, setTries] = useState(0);
  const { data, error } = useFetched(wrong ? `api/requests/${encodeURIComponent(r.requestId)}` : '', { again: tries });
  const record = wrong && data?.requestId === r.requestId && data.outcome !== 'running' ? data : null;
  useEffect(() => setTries(0), [r.requestId]);
  useEffect(() => {
    if (!wrong || record || tries >= RECORD_TRIES || !data && !error) return undefined;
    const timer = setTimeout(() => setTries(tries + 1), 500);
    return () => clearTimeout(timer);
  }, [wrong, record, tries, data, error]);
  const word = wrong ? record?.outcome ?? '' : r.state;
  const level = { running: 'run', done: 'ok', stopped: 'warn', ...record && outcomes }[word] ?? 'bad';
  return html`<${Badge} level=${level} dot>${r.status > 0 && `${r.status} `}${word}<//>`;
}

function Text({ r }) {
  const a = r.answer;
  return html`${r.problem && html`<${Problem}>${r.problem}<//>`}${a.error && html`<${Problem}>${a.error}<//>`}
    ${a.thinking && html`<details open><summary class="quiet">Thinking</summary><p class="said quiet">${a.thinking}</p></details>`}
    <p class="said">${a.text}${r.state === 'running' && html`<span class="caret" aria-hidden="true" />`}</p>
    ${a.stop && html`<p class="quiet">Ended by: ${a.stop}</p>`}`;
}

function Raw({ r }) {
  const text = r.raw.join('\n');
  return html`${r.dropped > 0 && html`<p class="quiet">The first ${f.count(r.dropped)} are left out.</p>`}${text ? html`<${Code} text=${text} label="Raw events" />` : html`<p class="quiet">Nothing came.</p>`}`;
}

/** The record of a request comes with its end: until it is there it is asked for again. */
function Path({ r }) {
  const path = r.requestId ? `api/requests/${encodeURIComponent(r.requestId)}` : '';
  const ended = r.state !== 'running';
  const once = useFetched(path, { every: 1, again: ended });
  const known = once.data && once.data.requestId === r.requestId ? once.data : null;
  const settled = useMemo(() => known && known.outcome !== 'running', [known]);
  if (!r.requestId) return html`<p class="quiet">${ended ? 'The gateway gave the request no ID.' : 'Waiting for the answer to begin…'}</p>`;
  if (!known) return html`<p class="quiet">${once.error && ended ? 'Waiting for the record of the request…' : 'Loading…'}</p>`;
  return html`<div class="in-path">${!settled && html`<p class="quiet">The request runs.</p>`}<${RequestBody} r=${known} /><p><a href=${link('requests', known.id)}>Open it among the requests</a></p></div>`;
}
