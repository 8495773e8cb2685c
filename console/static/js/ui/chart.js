// Charts by uPlot, in the colours of the theme, with words for those who do not see them.
import { html, uPlot, useEffect, useLayoutEffect, useRef } from '../lib.js';
import { colour, theme } from '../theme.js';
import { compact, minute } from '../format.js';

/** The least space between two words under a chart, in pixels. */
const SPACE = 64;
/** Steps between two words under a line, in seconds. */
const INCREMENTS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

/**
 * @typedef {{label: string, c: string, kind?: 'line'|'area'|'bars', values: (number|null)[]}} Series
 *   c is a class of components.css: "c1" to "c8", "c-bad", "c-idle"
 */

const variable = (c) => (c === 'c-bad' ? '--bad' : c === 'c-idle' ? '--idle' : `--chart-${c.slice(1)}`);

/**
 * A chart over time.
 * @param {{times: number[], series: Series[], text: string, height?: number, format?: (v: number) => string, stacked?: boolean,
 *   tick?: (seconds: number) => string, legend?: boolean}} p times in seconds; text says what the chart shows, in a sentence
 */
export function Chart({ times, series, text, height = 180, format = compact, stacked = false, tick, legend = true }) {
  const box = useRef(null);
  const plot = useRef(null);
  const shape = JSON.stringify([series.map((s) => [s.label, s.c, s.kind]), stacked, height, theme.value]);
  const data = [times, ...(stacked ? stack(series) : series.map((s) => s.values))];
  const latest = useRef(null);
  latest.current = { data, series };

  useLayoutEffect(() => {
    const p = new uPlot(options({ latest, width: box.current.clientWidth || 300, height, format, stacked, tick }), latest.current.data, box.current);
    plot.current = p;
    const seen = new ResizeObserver(() => {
      const width = box.current?.clientWidth;
      if (width && width !== p.width) p.setSize({ width, height });
    });
    seen.observe(box.current);
    return () => {
      seen.disconnect();
      p.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => { plot.current?.setData(data); });

  return html`<figure class="chart">
    <div role="img" aria-label=${text}><div class="plot" ref=${box} aria-hidden="true" style=${{ height: `${height}px` }} /></div>
    ${legend && html`<ul class="legend">${series.map((s) => html`<li key=${s.label} class=${s.c}><i aria-hidden="true" />${s.label}</li>`)}</ul>`}
  </figure>`;
}

/** Sums from the bottom, the highest first: it is drawn first, and the lower ones over it. */
function stack(series) {
  const sum = [];
  return series.map((s) => s.values.map((v, i) => (sum[i] = (sum[i] ?? 0) + (v ?? 0)))).reverse();
}

function options({ latest, width, height, format, stacked, tick }) {
  const axis = { stroke: colour('--text-3'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: `11px ${getComputedStyle(document.body).fontFamily}` };
  const series = stacked ? [...latest.current.series].reverse() : latest.current.series;
  const barred = series.some((s) => s.kind === 'bars');
  const bars = uPlot.paths.bars({ size: [0.72, 60], gap: 0 });
  return {
    width, height,
    padding: [8, 20, 0, 0],
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
    scales: { x: { time: true, ...(barred && { range: (u, min, max) => [min - step(u) / 2, max + step(u) / 2] }) }, y: { range: (_, min, max) => [0, max > 0 ? max * 1.08 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, ...(barred ? { splits: every } : { incrs: INCREMENTS }), values: tick ? (_, list) => list.map((t) => tick(t)) : (_, list) => list.map((t) => minute(new Date(t * 1000))), space: SPACE, size: 26 },
      { ...axis, values: (_, list) => list.map(format), size: 54, space: 34 },
    ],
    series: [{}, ...series.map((s) => {
      const line = colour(variable(s.c));
      const solid = s.kind === 'bars';
      return { label: s.label, stroke: line, width: solid ? 0 : 1.6, fill: solid ? line : s.kind === 'area' || stacked ? faint(line) : undefined, paths: solid ? bars : undefined, points: { show: false } };
    })],
    plugins: [tooltip({ latest, format, tick })],
  };
}

/** The time from one bar to the next. */
const step = (u) => (u.data[0].length > 1 ? u.data[0][1] - u.data[0][0] : 60);

/** The bars that have a word under them: all of them where there is room. */
function every(u) {
  const times = u.data[0];
  const n = Math.max(1, Math.ceil((times.length * SPACE) / Math.max(1, u.width - 70)));
  return times.filter((_, i) => (times.length - 1 - i) % n === 0);
}

const faint = (rgb) => rgb.replace('rgb(', 'rgba(').replace(')', ', 0.14)');

/** The figures under the pointer. */
function tooltip({ latest, format, tick }) {
  let tip;
  return {
    hooks: {
      init(u) {
        tip = document.createElement('div');
        tip.className = 'tip';
        tip.hidden = true;
        u.over.append(tip);
        u.over.addEventListener('mouseleave', () => { tip.hidden = true; });
      },
      setCursor(u) {
        const i = u.cursor.idx;
        if (i === null || i === undefined || u.cursor.left < 0) {
          tip.hidden = true;
          return;
        }
        const t = u.data[0][i];
        tip.replaceChildren(line('tip-at', tick ? tick(t) : minute(new Date(t * 1000))), ...latest.current.series
          .map((s) => [s, s.values[i]]).filter(([, v]) => v)
          .map(([s, v]) => line(s.c, `${s.label}  ${format(v)}`)));
        tip.hidden = false;
        const right = u.cursor.left > u.over.clientWidth / 2;
        tip.style.left = right ? '' : `${u.cursor.left + 12}px`;
        tip.style.right = right ? `${u.over.clientWidth - u.cursor.left + 12}px` : '';
      },
    },
  };
}

function line(cls, text) {
  const p = document.createElement('p');
  p.className = cls;
  p.textContent = text;
  return p;
}
