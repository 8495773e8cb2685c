// Lists of what happened. Pure.

/** Whether one event tells again what another has told: the same has happened once more. */
const repeats = (e, old) => e.count > 1 && old.count < e.count && old.dependency === e.dependency && old.type === e.type && old.text === e.text && old.severity === e.severity;

/** Puts an event before the others, in the place of the one that it repeats. @param {object[]} list newest first */
export function addEvent(list, e) {
  if (list.some((old) => old.seq === e.seq)) return list;
  const i = list.findIndex((old) => repeats(e, old));
  return [e, ...(i < 0 ? list : list.filter((_, j) => j !== i))];
}

/** Puts events that came by the stream before those that were asked for. Both are newest first. */
export function mergeEvents(fresh, known) {
  return [...fresh].reverse().reduce(addEvent, known).sort((a, b) => b.seq - a.seq);
}
