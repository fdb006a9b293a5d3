// What a query is: parts of different kinds, how each is recognised, and the request they make together.
//
// A part is { kind, value, weight, name?, wavelength? }. `value` is what was typed, the text of a file,
// or (from an example) the arrays themselves.

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

/** Whether a query may hold two files of this kind: each is a part of its own, and they share their weight. */
export const mayRepeat = (part) => part.kind === "structure" && typeof part.value === "string";

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
