// The one connection that everything live comes by. The browser makes it again by itself after most breaks; where it gives up,
// because an answer was no stream, we try.
import { batch, signal } from './lib.js';
import { applyLive, applyTopology, newModel } from './model.js';
import { applyRequests, newFeed } from './feed.js';
import { addEvent } from './events.js';
import { loadSession } from './session.js';

export const model = newModel();
export const feed = newFeed();

/** How many seconds of totals the page remembers. */
const SECONDS = 300;
/** The totals of the last minutes, oldest first: {at, requests, errors, tokens, ttft}. */
export const pulse = signal([]);
/** Events of the dependencies since the page was opened, newest first. */
export const events = signal([]);
/** The last Configuration that the stream told of. */
export const configuration = signal(null);

/** "connecting" at first, then "live" or "lost"; "resting" while nobody sees the page. */
export const connection = signal('connecting');
/** When the server was last heard of, in milliseconds. */
export const heardAt = signal(0);

/** Without a word for so long the connection is taken for lost: a "live" comes every second. */
const SILENCE = 6000;
/** Between tries of our own. */
const RETRY = 2000;
/** A page that nobody has seen for so long lets the connection go: browsers have six for all tabs together. */
const REST = 20_000;
const MOST_EVENTS = 200;

let source = null;
let watch = 0;
let retry = 0;
let rest = 0;
let wanted = false;

const handlers = {
  topology: (t) => applyTopology(model, t),
  live(l) {
    applyLive(model, l);
    const t = l.totals;
    const point = { at: Date.parse(l.at) / 1000, requests: t.requestsPerSecond, errors: t.errorsPerSecond, tokens: t.tokensPerSecond, ttft: t.ttftSeconds };
    pulse.value = [...pulse.value.slice(1 - SECONDS), point];
  },
  requests: (n) => applyRequests(feed, n),
  event(e) {
    events.value = addEvent(events.value, e).slice(0, MOST_EVENTS);
  },
  config(c) { configuration.value = c; },
};

function heard() {
  batch(() => {
    heardAt.value = Date.now();
    connection.value = 'live';
  });
}

function lost() {
  if (connection.value !== 'lost') connection.value = 'lost';
}

/** Connects, and keeps connected while the page is seen. */
export function connect() {
  close();
  wanted = true;
  source = new EventSource('api/stream');
  for (const [name, take] of Object.entries(handlers)) {
    source.addEventListener(name, (e) => {
      heard();
      take(JSON.parse(e.data));
    });
  }
  source.onerror = () => {
    lost();
    if (source?.readyState !== EventSource.CLOSED) return;
    // An answer that is no stream: the session may have ended, or the server starts.
    clearTimeout(retry);
    retry = setTimeout(async () => {
      await loadSession();
      if (source) connect();
    }, RETRY);
  };
  watch = setInterval(() => {
    if (connection.value === 'live' && Date.now() - heardAt.value > SILENCE) lost();
  }, 1000);
}

/** Ends the connection, as when nobody is logged in. */
export function disconnect() {
  wanted = false;
  close();
}

function close() {
  source?.close();
  source = null;
  clearInterval(watch);
  clearTimeout(retry);
}

/** Tries at once, for the impatient. */
export function reconnect() { connect(); }

function pause() {
  if (!wanted) return;
  close();
  connection.value = 'resting';
}

function resume() {
  clearTimeout(rest);
  if (wanted && !source) connect();
}

addEventListener('visibilitychange', () => {
  if (document.hidden) rest = setTimeout(pause, REST);
  else resume();
});
// A page that is left may live on for the way back; its connection must not.
addEventListener('pagehide', pause);
addEventListener('pageshow', resume);
