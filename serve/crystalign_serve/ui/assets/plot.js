// An SVG line plot: axes with units, ticks, several curves, and a readout at the pointer or by arrow keys.

import { el, quantity, svg, withSubscripts } from "./dom.js";
import { PLOTS } from "./query.js";

const HEIGHT = 240;
const MARGIN = { top: 10, right: 12, bottom: 38, left: 50 };
const small = (text) => svg("tspan", { class: "sub", "baseline-shift": "sub" }, text);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** About `count` ticks in [low, high], with a step of 1, 2 or 5 times a power of ten. */
export function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.7);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** y of a curve at x by linear interpolation; null outside its range. */
function at(curve, x) {
  const { x: xs, y: ys } = curve;
  if (!(x >= xs[0] && x <= xs.at(-1))) return null;
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  const span = xs[high] - xs[low];
  return span ? ys[low] + ((ys[high] - ys[low]) * (x - xs[low])) / span : ys[low];
}

/** Prepare a curve of the API for plotting: sum spin channels, drop non-finite points, sort by x. */
function tidy({ x, y, ...rest }) {
  const channels = Array.isArray(y[0]) ? y : [y];
  const points = x.map((value, i) => [value, channels.reduce((sum, channel) => sum + channel[i], 0)]);
  const finite = points.filter((point) => point.every(Number.isFinite)).sort((a, b) => a[0] - b[0]);
  return { ...rest, x: finite.map((point) => point[0]), y: finite.map((point) => point[1]) };
}

const range = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);

function toUnitMaximum(curve) {
  const highest = range(curve.y)[1] || 1;
  return { ...curve, y: curve.y.map((value) => value / highest) };
}

/**
 * A figure with several curves { name, role, x, y, x_label, y_label, kind }.
 * Curves with different y units, and curves of relative intensity, are each scaled to a maximum of one.
 */
export function plot(curves, { title }) {
  const [first] = curves;
  const relative = PLOTS[first.kind]?.relative || curves.some((curve) => curve.y_label !== first.y_label);
  const drawn = curves.map(tidy).filter((curve) => curve.x.length > 1).map((curve) => (relative ? toUnitMaximum(curve) : curve));
  const yLabel = relative ? "relative intensity" : first.y_label;
  const legend = drawn.map((curve) => el("span", { class: `key ${curve.role}` }, el("span", null, curve.name)));
  const readout = el("output", { class: "readout" });
  const canvas = svg("svg", { class: "plot", tabindex: 0, role: "img", "aria-label": `${title}: ${yLabel} against ${first.x_label}` });
  const figure = el("figure", { class: "curve" }, el("figcaption", null, el("span", { class: "legend" }, legend), readout), canvas);
  if (!drawn.length) return el("p", { class: "muted" }, `${title}: no data to plot.`);

  const xs = range(drawn.flatMap((curve) => [curve.x[0], curve.x.at(-1)]));
  const [low, high] = range(drawn.flatMap((curve) => range(curve.y)));
  const ys = [Math.min(0, low), high > low ? high * 1.04 : high + 1];
  let frame = null;
  const draw = (width) => {
    frame = makeFrame(width, xs, ys);
    canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    canvas.replaceChildren(...axes(frame, first, yLabel), ...drawn.map((curve) => line(curve, frame)), frame.cursor);
  };
  draw(560);
  new ResizeObserver(([entry]) => entry.contentRect.width > 0 && draw(Math.round(entry.contentRect.width))).observe(canvas);
  follow(canvas, readout, () => frame, drawn, first.x_label);
  return figure;
}

function makeFrame(width, xs, ys) {
  const inner = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
  const px = (x) => inner.left + ((x - xs[0]) / (xs[1] - xs[0] || 1)) * (inner.right - inner.left);
  const py = (y) => inner.bottom - ((y - ys[0]) / (ys[1] - ys[0] || 1)) * (inner.bottom - inner.top);
  const xOf = (pixel) => xs[0] + ((pixel - inner.left) / (inner.right - inner.left)) * (xs[1] - xs[0]);
  const cursor = svg("line", { class: "cursor", y1: inner.top, y2: inner.bottom, visibility: "hidden" });
  return { width, xs, ys, px, py, xOf, inner, cursor };
}

function axes({ width, xs, ys, px, py, inner }, { x_label: xLabel, kind }, yLabel) {
  const xTicks = ticks(...xs, clamp(Math.round(width / 80), 3, 10));
  const yTicks = ticks(...ys, 4);
  const decimals = (values) => Math.max(...values.map((v) => String(v).split(".")[1]?.length ?? 0));
  const text = (value, values) => value.toFixed(Math.min(6, decimals(values))).replace("-", "−");
  return [
    ...yTicks.map((y) => svg("line", { class: "grid", x1: inner.left, x2: inner.right, y1: py(y), y2: py(y) })),
    ...yTicks.map((y) => svg("text", { class: "tick y", x: inner.left - 7, y: py(y) + 4 }, text(y, yTicks))),
    ...xTicks.map((x) => svg("line", { class: "axis", x1: px(x), x2: px(x), y1: inner.bottom, y2: inner.bottom + 4 })),
    ...xTicks.map((x) => svg("text", { class: "tick x", x: px(x), y: inner.bottom + 16 }, text(x, xTicks))),
    PLOTS[kind]?.zero_axis && xs[0] < 0 && xs[1] > 0 && svg("line", { class: "zero", x1: px(0), x2: px(0), y1: inner.top, y2: inner.bottom }),
    svg("line", { class: "axis", x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom }),
    svg("text", { class: "title", x: (inner.left + inner.right) / 2, y: HEIGHT - 6 }, withSubscripts(xLabel, small)),
    svg("text", { class: "title", transform: `translate(11 ${(inner.top + inner.bottom) / 2}) rotate(-90)` }, withSubscripts(yLabel, small)),
  ].filter(Boolean);
}

function line(curve, { px, py, inner }) {
  const points = curve.x.map((x, i) => `${px(x).toFixed(1)} ${py(curve.y[i]).toFixed(1)}`);
  const path = `M${points.join("L")}`;
  const base = clamp(py(0), inner.top, inner.bottom).toFixed(1);
  const area = `${path}L${px(curve.x.at(-1)).toFixed(1)} ${base}L${px(curve.x[0]).toFixed(1)} ${base}Z`;
  return svg("g", { class: `series ${curve.role}` }, svg("path", { class: "area", d: area }), svg("path", { class: "stroke", d: path }));
}

function follow(canvas, readout, frameOf, curves, xLabel) {
  const [, name, unit] = /^(.*?)\s*(?:\(([^,)]*).*\))?$/.exec(xLabel);
  let x = null;
  const show = (value) => {
    const { cursor, px, xs } = frameOf();
    x = clamp(value, ...xs);
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, px(x));
    cursor.setAttribute("visibility", "visible");
    const values = curves.map((curve) => [curve, at(curve, x)]).filter(([, y]) => y !== null);
    const digits = xs[1] - xs[0] > 30 ? 1 : 2;
    const position = `${name} ${x.toFixed(digits).replace("-", "−")}${unit ? ` ${unit}` : ""}`;
    readout.replaceChildren(el("span", null, withSubscripts(position, (text) => el("sub", null, text))), ...values.map(([curve, y]) => el("span", { class: curve.role }, quantity(Number(y.toFixed(3))))));
  };
  const hide = () => {
    frameOf().cursor.setAttribute("visibility", "hidden");
    readout.replaceChildren();
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    show(frameOf().xOf(((event.clientX - box.left) / box.width) * frameOf().width));
  });
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("blur", hide);
  canvas.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    const [low, high] = frameOf().xs;
    show((x ?? (low + high) / 2) + (direction * (high - low)) / 200);
  });
}
