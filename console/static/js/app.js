// The frame: pages at the left, what is going on at the top, and the page that the address names.
import { html, useEffect, useLayoutEffect, useRef, useState } from './lib.js';
import * as f from './format.js';
import { go, link, place } from './router.js';
import { logout, loadSession, session, sessionError } from './session.js';
import { configuration, connect, connection, disconnect, heardAt, reconnect } from './stream.js';
import { theme, toggleTheme } from './theme.js';
import { ask } from './net.js';
import { announcement, now } from './ui/parts.js';
import { Icon } from './ui/icons.js';
import { Help } from './ui/help.js';
import { Login } from './pages/login.js';
import { Topology } from './pages/topology.js';
import { Requests } from './pages/requests.js';
import { Usage } from './pages/usage.js';
import { Cache } from './pages/cache.js';
import { Sessions } from './pages/sessions.js';
import { Config } from './pages/config.js';
import { Playground } from './pages/playground.js';
import { Setup } from './pages/setup.js';

/** The pages, in the order of their keys "g" and the letter. */
const pages = [
  { id: 'topology', label: 'Topology', key: 't', view: Topology },
  { id: 'requests', label: 'Requests', key: 'r', view: Requests },
  { id: 'usage', label: 'Usage', key: 'u', view: Usage },
  { id: 'cache', label: 'Cache', key: 'a', view: Cache },
  { id: 'sessions', label: 'Sessions', key: 'e', view: Sessions },
  { id: 'config', label: 'Configuration', key: 'c', view: Config },
  { id: 'playground', label: 'Playground', key: 'p', view: Playground },
  { id: 'setup', label: 'Setup', key: 's', view: Setup },
];

/** Between two tries to reach a server that did not answer at the start, in milliseconds. */
const RETRY = 3000;

/** Everything. */
export function App() {
  const s = session.value;
  const down = !s && sessionError.value;
  useEffect(() => {
    const timer = down ? setInterval(loadSession, RETRY) : 0;
    return () => clearInterval(timer);
  }, [Boolean(down)]);
  if (!s) {
    return sessionError.value
      ? html`<main class="boot"><h1>Weir does not answer</h1><p>${sessionError.value}</p><p><button type="button" class="button" onClick=${loadSession}>Try again</button></p></main>`
      : html`<p class="boot">Loading the console…</p>`;
  }
  return s.authenticated ? html`<${Frame} session=${s} />` : html`<${Login} session=${s} />`;
}

function Frame({ session: s }) {
  const [help, setHelp] = useState(false);
  const [status, setStatus] = useState(null);
  const main = useRef(null);
  const first = useRef(true);
  const { page } = place.value;
  const shown = pages.find((p) => p.id === page);

  useEffect(() => {
    connect();
    return disconnect;
  }, []);
  // The number of problems in the navigation: asked again whenever the configuration moves.
  const version = JSON.stringify(configuration.value);
  useEffect(() => {
    ask('api/status').then(setStatus, () => {});
  }, [version]);
  useLayoutEffect(() => {
    document.title = `${shown?.label ?? 'Not found'} · Weir`;
    // A new page is read from its beginning; at the start the browser does that.
    if (!first.current) main.current?.focus({ preventScroll: true });
    first.current = false;
    // On narrow screens the pages are a strip that scrolls.
    document.querySelector('.nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    scrollTo(0, 0);
  }, [page]);
  useShortcuts(() => setHelp(true));

  const lost = connection.value === 'lost';
  const problems = status?.problems.length ?? 0;
  // Each is a line of text: "pool.yaml:3: Backend default/gpus: warning: ...".
  const warnings = status?.problems.filter((p) => p.includes(': warning: ')).length ?? 0;
  return html`
    <button type="button" class="skip" onClick=${() => main.current?.focus()}>Skip to the content</button>
    <div class=${`frame ${lost ? 'stale' : ''}`}>
      <header class="side">
        <div class="brand"><img src="img/logo.svg" alt="" /><span>Weir<small>LLM gateway</small></span></div>
        <nav class="nav" aria-label="Pages">
          ${pages.filter((p) => p.id !== 'playground' || s.playground).map((p) => html`
            <a key=${p.id} href=${link(p.id)} aria-current=${p.id === page ? 'page' : undefined}>
              <${Icon} name=${p.id} />${p.label}
              ${p.id === 'config' && problems > 0 && html`<span class=${`count ${warnings < problems ? 'bad' : 'warn'}`}>${f.count(problems)}<span class="sr"> problems</span></span>`}
            </a>`)}
        </nav>
        <div class="foot">
          <span class="version">${s.user && html`<span>${s.user}<br /></span>`}${status && `Weir ${status.version}`}</span>
          <div class="tools">
            <button type="button" class="button quiet icon" onClick=${toggleTheme} aria-label=${theme.value === 'dark' ? 'Switch to the light theme' : 'Switch to the dark theme'} title="Light or dark"><${Icon} name=${theme.value === 'dark' ? 'sun' : 'moon'} /></button>
            <button type="button" class="button quiet icon" onClick=${() => setHelp(true)} aria-label="Keyboard shortcuts" title="Keyboard shortcuts (?)"><${Icon} name="keyboard" /></button>
            ${s.loginRequired && html`<button type="button" class="button quiet icon" onClick=${logout} aria-label="Log out" title="Log out"><${Icon} name="out" /></button>`}
          </div>
        </div>
      </header>
      <main class="view" id="main" tabindex="-1" ref=${main}>
        ${lost && html`<${Lost} />`}
        ${shown ? html`<${shown.view} key=${shown.id} />` : html`<h1>There is no such page</h1><p><a href=${link('topology')}>Go to the topology</a></p>`}
      </main>
    </div>
    <div class="sr" role="status" aria-live="polite">${announcement.value}</div>
    ${help && html`<${Help} pages=${pages} onClose=${() => setHelp(false)} />`}`;
}

function Lost() {
  const since = heardAt.value;
  return html`<div class="banner bad" role="alert">
    <span>The connection to Weir is lost. What you see is ${since ? html`<strong>as of ${f.clock(new Date(since))}</strong><span aria-hidden="true"> (${f.ago(new Date(since), now.value)})</span>` : 'not known'}; the page reconnects by itself.</span>
    <button type="button" class="button small" onClick=${reconnect}>Reconnect now</button>
  </div>`;
}

/** Keys for those who know them. They do nothing where somebody writes. */
function useShortcuts(showHelp) {
  useLayoutEffect(() => {
    let before = '';
    let timer = 0;
    const key = (e) => {
      const at = e.target;
      if (e.ctrlKey || e.metaKey || e.altKey || at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName) && at.type !== 'radio' && at.type !== 'checkbox') return;
      if (e.key === '?') {
        e.preventDefault();
        showHelp();
      } else if (e.key === '/') {
        const search = document.querySelector('main input[type="search"]');
        if (search) {
          e.preventDefault();
          search.focus();
        }
      } else if (before === 'g') {
        const p = pages.find((x) => x.key === e.key && (x.id !== 'playground' || session.value?.playground));
        if (p) {
          e.preventDefault();
          go(p.id);
        }
      }
      before = e.key;
      clearTimeout(timer);
      timer = setTimeout(() => { before = ''; }, 1200);
    };
    addEventListener('keydown', key);
    return () => {
      removeEventListener('keydown', key);
      clearTimeout(timer);
    };
  }, []);
}
