// Detect whether a typed text is a formula, a chemical system, an id or words, and ask the user if it is ambiguous.
//
// Only the intended kind is detected here. The server decides whether a formula is valid, and explains why not.

const SYMBOLS =
  ("H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo " +
    "Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl " +
    "Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og").split(" ");
const ELEMENTS = new Set([...SYMBOLS, "D", "T"]);
const RARE = new Set("He Ne Ar Kr Xe Rn Tc Pm Po At Fr Ra Ac Pa".split(" ").concat(SYMBOLS.slice(92)));
const TYPOGRAPHY = [..."₀₁₂₃₄₅₆₇₈₉"].map((digit, value) => [digit, String(value)])
  .concat([..."⁰¹²³⁴⁵⁶⁷⁸⁹"].map((digit, value) => [digit, `^${value}`]), [["⁺", "^+"], ["⁻", "^-"]],
    [..."·•∙⋅・‧●*"].map((dot) => [dot, "·"]), [..."‐‑‒–—−"].map((dash) => [dash, "-"]), [..."½⅓⅔¼¾"].map((part) => [part, "1/2"]));
const PLAIN = new Map(TYPOGRAPHY);
const CHARGE = /(?:\s*\^[\d+^-]+|\s*\^?\(?\d*[+-]+\)?)$/;
const TOKEN = /([A-Z][a-z]?)|\d+(?:\.\d+)?|[()[\]{}·./_$\s^]|[+±-]?[xyzδ](?![a-z])|n(?=H2O)/y;
const WORDS = new Set("iron tin gas ice opal bcc fcc hcp spin salt cation ionic icosa basic nano pure clay".split(" "));
const LONGEST_GUESS = 16;
const LONGEST = 200; // characters of a formula, a chemical system or an id: as many as the server takes in a formula
const MOST_SYMBOLS = 3;

const plain = (text) => [...text.trim()].map((character) => PLAIN.get(character) ?? character).join("");

/** Whether the text is written as a chemical formula: known symbols, numbers, brackets, dots, perhaps a charge. */
export function isFormula(text) {
  if (text.length > LONGEST) return false;
  const formula = plain(text).replace(CHARGE, "");
  let [at, symbols] = [0, 0];
  while (at < formula.length) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(formula);
    if (!match) return false;
    const varies = match[1] && !ELEMENTS.has(match[1]) && /^.[xyz]$/.test(match[1]) && ELEMENTS.has(match[1][0]); // YBa2Cu3Ox
    if (match[1] && !ELEMENTS.has(match[1]) && !varies) return false;
    symbols += Boolean(match[1]);
    at = TOKEN.lastIndex;
  }
  return symbols > 0;
}

/** The most likely kind of a typed text. */
export function guess(text) {
  const typed = text.trim();
  if (typed.length > LONGEST) return "text";
  if (isFormula(typed)) return "formula";
  if (chemicalSystem(typed).length) return "text";
  if (/^[A-Za-z][A-Za-z0-9]*[-_:/.][\w.:/-]*\d[\w.:/-]*$/.test(typed) || /^\d{5,}$/.test(typed)) return "id";
  return "text";
}

/** Symbols of a chemical system such as "Fe-O", "fe – o" or "Li-Fe-P-O", in order; empty for any other text. */
export function chemicalSystem(text) {
  if (text.length > LONGEST) return [];
  const parts = plain(text).split(/[-,]/).map((part) => part.trim());
  const symbols = parts.map((part) => part.slice(0, 1).toUpperCase() + part.slice(1).toLowerCase());
  return parts.length > 1 && symbols.every((symbol) => SYMBOLS.includes(symbol)) ? [...new Set(symbols)] : [];
}

/** Formulas that differ from the text only in case, e.g. "nacl" → ["NaCl"]; the most likely first. */
export function suggestions(text) {
  if (text.length > LONGEST) return [];
  const typed = plain(text);
  if (isFormula(text) || typed.length > LONGEST_GUESS || !/^[A-Za-z0-9.()[\]·]+$/.test(typed) || !/[a-z]/i.test(typed)) return [];
  const ways = [[[0, 0, ""]]];
  for (let end = 1; end <= typed.length; end += 1) {
    const here = [];
    for (const length of [1, 2]) {
      if (length > end) continue;
      const piece = typed.slice(end - length, end);
      const symbol = piece[0].toUpperCase() + piece.slice(1).toLowerCase();
      if (!SYMBOLS.includes(symbol)) continue;
      here.push(...ways[end - length].map(([cost, count, start]) => [cost + (RARE.has(symbol) ? 3 : 1), count + 1, start + symbol]));
    }
    if (!/[a-z]/i.test(typed[end - 1])) here.push(...ways[end - 1].map(([cost, count, start]) => [cost, count, start + typed[end - 1]]));
    ways.push(here.sort((a, b) => a[0] - b[0]).slice(0, 3));
  }
  const most = /\d/.test(typed) ? 2 * MOST_SYMBOLS : MOST_SYMBOLS;
  return ways.at(-1).filter(([, count]) => count > 0 && count <= most).map(([, , candidate]) => candidate).filter(isFormula);
}

const bothFilters = (given, more) => (given.trim() ? `(${given.trim()}) AND ${more}` : more);

/**
 * The question to ask about an ambiguous text before the search; null if the text is not ambiguous.
 * An answer is { label, kind, value, filter }; its filter includes the one in the form.
 */
export function question(text, filter = "") {
  const typed = text.trim();
  if (typed.length > LONGEST) return null;
  const words = { label: `The words “${typed}”`, kind: "text", value: typed, filter };
  const system = chemicalSystem(typed);
  if (system.length) {
    const formula = system.join("");
    const listed = system.length > 1 ? `${system.slice(0, -1).join(", ")} and ${system.at(-1)}` : system[0];
    const names = system.map((symbol) => `"${symbol}"`).join(",");
    return {
      title: `“${typed}” is a chemical system. What do you want?`,
      detail: `Crystals are filtered by elements and ordered by how close their composition is to ${formula}.`,
      answers: [
        { label: `Crystals of ${listed} alone`, kind: "formula", value: formula, filter: bothFilters(filter, `_crystalign_chemsys="${[...system].sort().join("-")}"`) },
        { label: `Crystals with ${listed} and perhaps others`, kind: "formula", value: formula, filter: bothFilters(filter, `elements HAS ALL ${names}`) },
        words,
      ],
    };
  }
  const formulas = suggestions(typed);
  if (!formulas.length) return null;
  return {
    title: `What is “${typed}”?`,
    detail: "Element symbols begin with a capital letter. Did you mean a formula, or the words?",
    answers: [...formulas.map((value) => ({ label: `The formula ${value}`, kind: "formula", value, filter })), words],
    common: WORDS.has(typed.toLowerCase()),
  };
}
