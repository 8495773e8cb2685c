// The libraries, from one place: see ../vendor/README.md.
import { Component, Fragment, createRef, h, render } from '../vendor/preact/preact.js';
import { useCallback, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from '../vendor/preact/hooks.js';
import { batch, computed, effect, signal, useComputed, useSignal, useSignalEffect } from '../vendor/signals/signals.js';
import htm from '../vendor/htm/htm.js';
import uPlot from '../vendor/uplot/uplot.js';

/** Tagged template that makes elements; everything put into it is text, never markup. */
export const html = htm.bind(h);

export {
  Component, Fragment, createRef, h, render,
  useCallback, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState,
  batch, computed, effect, signal, useComputed, useSignal, useSignalEffect,
  uPlot,
};
