// The way in, where the console asks for one.
import { html, useEffect, useRef, useState } from '../lib.js';
import { login } from '../session.js';

/** @param {{session: {methods: string[], oidcUrl?: string}}} p */
export function Login({ session }) {
  const [token, setToken] = useState('');
  const [error, setError] = useState('');
  const [busy, setBusy] = useState(false);
  const input = useRef(null);
  useEffect(() => {
    document.title = 'Log in · Weir';
    input.current?.focus();
  }, []);
  const submit = async (e) => {
    e.preventDefault();
    setBusy(true);
    setError('');
    try {
      await login(token.trim());
    } catch (err) {
      setError(err.message);
      setBusy(false);
      input.current?.focus();
    }
  };
  const byToken = session.methods.includes('token');
  return html`<main class="login" id="main">
    <form class="panel" onSubmit=${submit} aria-labelledby="login-title">
      <div class="brand"><img src="img/logo.svg" alt="" /><span>Weir<small>LLM gateway</small></span></div>
      <h1 id="login-title">Log in to the console</h1>
      ${error && html`<p class="error-box" role="alert" id="login-error">${error}</p>`}
      ${session.oidcUrl && html`<a class="button primary" href=${session.oidcUrl.replace(/^\//, '')}>Log in with your organization</a>`}
      ${byToken && session.oidcUrl && html`<p class="or"><span>or</span></p>`}
      ${byToken && html`<div class="field"><label for="token">Admin token</label>
        <input class="input" id="token" type="password" autocomplete="current-password" required ref=${input} value=${token} onInput=${(e) => setToken(e.target.value)}
          aria-describedby=${error ? 'login-error token-hint' : 'token-hint'} />
        <span class="hint" id="token-hint">The one that weir was started with: WEIR_ADMIN_TOKEN or --admin-token-file.</span></div>
        <button class=${`button ${session.oidcUrl ? '' : 'primary'}`} disabled=${busy || !token.trim()}>${busy ? 'Logging in…' : 'Log in'}</button>`}
      ${!byToken && !session.oidcUrl && html`<p>No login is set up. Set WEIR_ADMIN_TOKEN, or let --admin be a loopback address.</p>`}
    </form>
  </main>`;
}
