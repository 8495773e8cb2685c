// Light or dark: the system's choice, or the reader's.
import { signal } from './lib.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

/** "light" or "dark": what is shown now. Charts are drawn again when it changes. */
export const theme = signal(shown());

function shown() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === 'light' || chosen === 'dark' ? chosen : dark.matches ? 'dark' : 'light';
}

dark.addEventListener('change', () => { theme.value = shown(); });

/** Shows the other one and remembers it; going back to the system's own choice forgets it. */
export function toggleTheme() {
  const next = theme.value === 'dark' ? 'light' : 'dark';
  const system = dark.matches ? 'dark' : 'light';
  if (next === system) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    if (next === system) localStorage.removeItem('weir.theme');
    else localStorage.setItem('weir.theme', next);
  } catch {
    // It lasts as long as the page then.
  }
  theme.value = next;
}

/** A colour of the present theme, by the name of its CSS variable, as a canvas takes it. */
export function colour(name) {
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  probe.hidden = true;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
