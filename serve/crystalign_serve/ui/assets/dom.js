// DOM elements and formatted text. Text from a server or a file becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element; `on…` attributes are listeners, children are nodes or text. */
export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const $ = (id) => document.getElementById(id);

/** "Fe2O3" with subscripts. */
export function formula(text) {
  const parts = String(text).split(/(\d+(?:\.\d+)?)/);
  return el("span", { class: "formula" }, parts.map((part, i) => (i % 2 ? el("sub", null, part) : part)));
}

const BARS = /-(\d)/g;

/** Space group symbol with overbars and screw-axis subscripts, and its number. */
export function spaceGroup(symbol, number) {
  if (!symbol && !number) return el("span", { class: "muted" }, "space group unknown");
  const node = el("span", { class: "spacegroup" });
  if (symbol) {
    const text = String(symbol).replace(BARS, "$1\u0305");
    text.split(/_(\d)/).forEach((part, i) => node.append(i % 2 ? el("sub", null, part) : part));
  }
  if (number) node.append(el("span", { class: "muted" }, symbol ? ` ${number}` : `No. ${number}`));
  return node;
}

const LABEL_BREAK = /(\s+|[,;:“”]+|(?<=\s)\(|\)(?=\s|$|[,;]))/; // brackets of a sentence, not those of Cu(OH)2
const SYMBOL = /^[PIFCABR](?=.*(?:_|-\d))[a-z\d/_-]+$/; // P4_2/mnm, Fm-3m
const FORMULA = /^(?![PIFCABR]\d+$)(?=.*[A-Za-z)\]]\d)(?:[A-Z][a-z]?|[\d.()[\]·])+$/; // TiO2, but not the space group P312

/** A label with subscripts in its formulas, and overbars and subscripts in its space group symbols. */
export function pretty(text) {
  const small = (piece, split) => piece.split(split).map((part, i) => (i % 2 ? el("sub", null, part) : part));
  return String(text).split(LABEL_BREAK).map((piece) => {
    if (SYMBOL.test(piece)) return small(piece.replace(BARS, "$1\u0305"), /_(\d)/);
    return FORMULA.test(piece) ? small(piece, /(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)/) : piece;
  });
}

/** Format a number: four significant digits, a true minus sign, an exponent only for very small or large values. */
export function quantity(value) {
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 1e-9) return "≈ 0";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en").replace("-", "−");
  const small = Math.abs(value) < 1e-3 && value !== 0;
  const text = small || Math.abs(value) >= 1e6 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "−");
}

/** Split "E − E_F (eV)" into text and subscripts; `sub` renders a subscript. */
export const withSubscripts = (text, sub) => String(text).split(/_([A-Za-z]+)/).map((part, i) => (i % 2 ? sub(part) : part));

/** The label of a property, without a unit in brackets. */
export const label = ({ label: text, unit }) => (unit ? String(text).replace(` (${unit})`, "") : String(text));
