// Where the console begins.
import { html, render } from './lib.js';
import { App } from './app.js';
import { loadSession } from './session.js';

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
void loadSession();
