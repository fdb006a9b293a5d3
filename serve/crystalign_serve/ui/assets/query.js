// What a query is: parts of different kinds, how each is recognised, and the request they make together.
//
// A part is { kind, value, weight, name?, wavelength? }. `value` is what was typed, the text of a file,
// or (from an example) the arrays themselves.

const ELEMENTS = new Set(
  ("H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo " +
    "Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl " +
    "Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og").split(" "),
);
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";

export const KINDS = {
  formula: { label: "formula", modality: "composition" },
  text: { label: "text", modality: "text" },
  id: { label: "id", modality: "id" },
  structure: { label: "structure", modality: "crystal", file: true },
  dos: { label: "DOS", modality: "dos", file: "dos" },
  xrd: { label: "XRD", modality: "xrd", file: "xrd" },
  auto: { label: "file", file: "auto" },
};
export const WAVELENGTHS = [["", "λ from file"], ["CuKa", "Cu Kα"], ["CoKa", "Co Kα"], ["MoKa", "Mo Kα"]];

export const isFile = (part) => Boolean(KINDS[part.kind]?.file);

/** Typographic subscripts and spaces of a pasted formula as plain digits. */
const plain = (text) => text.replace(/[₀-₉]/g, (digit) => SUBSCRIPTS.indexOf(digit)).replace(/\s+/g, "");

/** Whether the text is a chemical formula: known symbols, counts, balanced brackets. */
export function isFormula(text) {
  const formula = plain(text);
  if (/\s/.test(text.trim()) && !/^([A-Z][a-z]?[\d.₀-₉]*\s*)+$/.test(text.trim())) return false;
  let depth = 0;
  let at = 0;
  const token = /([A-Z][a-z]?)|(\d+(?:\.\d+)?|\.\d+)|([([])|([)\]])/y;
  while (at < formula.length) {
    token.lastIndex = at;
    const match = token.exec(formula);
    if (!match || (match[1] && !ELEMENTS.has(match[1])) || (match[2] && at === 0)) return false;
    depth += match[3] ? 1 : match[4] ? -1 : 0;
    if (depth < 0) return false;
    at = token.lastIndex;
  }
  return formula.length > 0 && depth === 0;
}

/** Which kind of query a typed text is. */
export function guess(text) {
  const typed = text.trim();
  if (/^[A-Za-z][A-Za-z0-9]*[-_:/.][\w.:/-]*\d[\w.:/-]*$/.test(typed) || /^\d{5,}$/.test(typed)) return "id";
  return isFormula(typed) ? "formula" : "text";
}

/** Rows of numbers of a text file; comments, headers and other lines are passed over. */
function rows(text) {
  const numbers = text.split(/\r?\n/).map((line) => line.trim().split(/[\s,;]+/).filter(Boolean).map(Number));
  return numbers.filter((row) => row.length >= 2 && row.every(Number.isFinite));
}

const isCif = (text) => /^\s*data_/m.test(text) && /_cell_length_a/i.test(text);

function fileKind({ kind, value, name }) {
  if (kind !== "structure") return KINDS[kind].file;
  return isCif(value) || /\.cif$/i.test(name) ? "cif" : "poscar";
}

/** Which kind of query a file is: by its name, then by its content; "auto" leaves it to the server. */
export function guessFile(name, text) {
  if (/\.(cif|vasp|poscar|contcar)$/i.test(name) || /^(poscar|contcar)/i.test(name) || isCif(text)) return "structure";
  if (/\.(xy|xye|xrdml)$/i.test(name) || /<xrdMeasurement/.test(text)) return "xrd";
  if (/\.xml$/i.test(name) || /\bdos\b|states\s*\/\s*ev/i.test(text.slice(0, 2000))) return "dos";
  const x = rows(text).map((row) => row[0]);
  if (x.length > 10 && x.some((value) => value < 0)) return "dos";
  if (x.length > 10 && x.at(-1) > 30) return "xrd";
  return "auto";
}

const withWavelength = ({ value, wavelength }) => (wavelength ? { ...value, wavelength } : value);

/** The request of a state: `{ body }` for JSON, or `{ form }` where there are files, which the server reads. */
export function toRequest({ parts, filter, k }) {
  const files = parts.filter((part) => isFile(part) && typeof part.value === "string");
  const query = {};
  const weights = {};
  for (const part of parts) {
    weights[KINDS[part.kind].modality] = part.weight;
    if (!files.includes(part)) query[part.kind] = isFile(part) ? withWavelength(part) : part.value;
  }
  const weighted = parts.length > 1 && parts.every((part) => part.kind !== "auto");
  const request = { k, ...(filter && { filter }) };
  if (!files.length) return { body: { query, ...request, ...(weighted && { weights }) } };
  const form = {
    ...request,
    files: files.map((part) => ({ name: part.name, text: part.value, kind: fileKind(part) })),
    wavelength: files.find((part) => part.wavelength)?.wavelength,
    ...(files.length < parts.length && { query: JSON.stringify(query) }),
    ...(weighted && { weights: JSON.stringify(weights) }),
  };
  return { form };
}

/** The parts of an API request, e.g. of an example. */
export function fromRequest({ query = {}, weights = {} }, name = "example") {
  const kinds = { cif: "structure", poscar: "structure", composition: "formula" };
  return Object.entries(query).filter(([, value]) => value !== null && value !== undefined).map(([key, value]) => {
    const kind = kinds[key] ?? key;
    const part = { kind, value, weight: weights[key] ?? weights[KINDS[kind].modality] ?? 1 };
    return isFile(part) ? { ...part, name } : part;
  });
}
