// What a page asks the server for: the answer, why there is none, and the question again.
import { useEffect, useRef, useState } from '../lib.js';
import { ask } from '../net.js';

/**
 * Asks for JSON, again when the path changes, and every so many seconds while the page is seen.
 * @param {string} path "" asks for nothing
 * @param {{every?: number, again?: unknown}} [o] every is in seconds; a change of again asks at once
 * @returns {{data: any, error: string, loading: boolean, reload: () => void}}
 */
export function useFetched(path, { every = 0, again } = {}) {
  const [state, setState] = useState({ path: '', data: null, error: '' });
  const [round, setRound] = useState(0);
  const shown = useRef('');
  useEffect(() => {
    if (!path) return undefined;
    const abort = new AbortController();
    let timer = 0;
    const load = async () => {
      if (!document.hidden || shown.current !== path) {
        try {
          const data = await ask(path, { signal: abort.signal });
          shown.current = path;
          setState({ path, data, error: '' });
        } catch (err) {
          if (abort.signal.aborted) return;
          // The last answer stays: an old figure with a reason is better than none.
          setState((old) => ({ path, data: old.path === path ? old.data : null, error: err.message }));
        }
      }
      if (every > 0 && !abort.signal.aborted) timer = setTimeout(load, every * 1000);
    };
    void load();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [path, every, again, round]);
  // The answer to the question before stays in sight until the next one comes, so that nothing jumps.
  return { data: path ? state.data : null, error: state.path === path ? state.error : '', loading: state.path !== path, reload: () => setRound((n) => n + 1) };
}
