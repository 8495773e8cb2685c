// Who looks at the console, and whether they may.
import { effect, signal } from './lib.js';
import { ask, unauthorized } from './net.js';

/** The answer of /api/session; null until it is known. */
export const session = signal(null);
/** Why it is not known, in words. */
export const sessionError = signal('');

/** Asks who we are. */
export async function loadSession() {
  try {
    session.value = await ask('api/session');
    sessionError.value = '';
  } catch (err) {
    sessionError.value = err.message;
  }
}

/** Logs in by the token that operators have. Throws the reason why not. */
export async function login(token) {
  session.value = await ask('api/session', { method: 'POST', body: { token } });
}

/** Ends the session. */
export async function logout() {
  // First the pages go, and with them what they ask: it would be refused.
  session.value = { ...session.value, authenticated: false };
  try {
    await ask('api/session', { method: 'DELETE' });
  } finally {
    await loadSession();
  }
}

// A session that has ended is noticed by the first question that is refused.
effect(() => {
  if (unauthorized.value > 0) void loadSession();
});
