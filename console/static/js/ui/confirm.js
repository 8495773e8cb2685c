// An action that cannot be taken back: it is asked about once more, in its place.
import { html, useEffect, useRef, useState } from '../lib.js';

/**
 * A button that asks before it does something.
 * @param {{label: string, question: string, yes: string, onYes: () => Promise<void>, disabled?: boolean, small?: boolean}} p
 */
export function Confirm({ label, question, yes, onYes, disabled = false, small = false }) {
  const [asked, setAsked] = useState(false);
  const [busy, setBusy] = useState(false);
  const there = useRef(true);
  const no = useRef(null);
  const first = useRef(null);
  useEffect(() => () => { there.current = false; }, []);
  // Enter twice in a row must not be enough.
  useEffect(() => { if (asked) no.current?.focus(); }, [asked]);
  const size = small ? 'small' : '';
  const back = () => {
    setAsked(false);
    setTimeout(() => first.current?.focus());
  };
  const go = async () => {
    setBusy(true);
    await onYes();
    if (!there.current) return;
    setBusy(false);
    back();
  };
  const key = (e) => {
    if (e.key !== 'Escape') return;
    e.preventDefault();
    back();
  };
  if (!asked) return html`<button type="button" class=${`button ${size}`} ref=${first} disabled=${disabled} onClick=${() => setAsked(true)}>${label}</button>`;
  return html`<span class="confirm" role="group" aria-label=${question} onKeyDown=${key}><span>${question}</span>
    <button type="button" class=${`button danger ${size}`} disabled=${busy} onClick=${go}>${yes}</button>
    <button type="button" class=${`button ${size}`} ref=${no} disabled=${busy} onClick=${back}>Cancel</button></span>`;
}
