// The query model: parts of different kinds, how each is recognised, and the API request that they form.
//
// A part is { kind, value, weight, name?, wavelength?, stamp? }. `value` is what was typed, the text of a file, the
// bytes of a file that is no UTF-8 text (with a stamp that tells it from others of its name), or (from an example) the
// arrays themselves.

export const KINDS = {}; // kinds of parts, filled by `learn`
export const PLOTS = {}; // plot settings by modality, filled by `learn`

/** A regular expression from the service; if this browser does not support it, one that matches nothing. */
function expression(pattern) {
  try {
    return new RegExp(pattern || "(?!)");
  } catch {
    return /(?!)/;
  }
}

function kindOf({ name, query: { label, structure, fields, files } }) {
  const names = fields.map((field) => field.name);
  const kind = { label, modality: name, names, structure };
  if (!files) return [names[0], kind];
  const clues = files.clues.map(({ pattern, strength }) => ({ pattern: expression(pattern), strength }));
  const compiled = { ...files, clues, name_pattern: expression(files.name_pattern) };
  return structure ? ["structure", { ...kind, file: true, files: compiled }] : [names[0], { ...kind, file: names[0], files: compiled }];
}

/** Fill KINDS and PLOTS from the modalities of `/api/info`, in the order in which the page offers them. */
export function learn(modalities = []) {
  const kinds = modalities.filter(({ query }) => query).map(kindOf);
  const words = kinds.filter(([, { files }]) => !files).sort(([, a], [, b]) => a.label.localeCompare(b.label));
  const id = ["id", { label: "id", modality: "id", names: ["id"] }];
  const auto = ["auto", { label: "file", file: "auto", names: [] }];
  Object.assign(KINDS, Object.fromEntries([...words, id, ...kinds.filter(([, { files }]) => files), auto]));
  for (const { name, query } of modalities) if (query?.plot) PLOTS[name] = query.plot;
}

/** Kinds that are typed, and kinds of tables of numbers, as [name, kind]. */
export const typedKinds = () => Object.entries(KINDS).filter(([, { file }]) => !file);
const tables = () => Object.entries(KINDS).filter(([, { files, structure }]) => files && !structure);

const takers = () => tables().filter(([, { files }]) => files.takes_wavelength).map(([kind]) => kind);

/** Whether a part may need a wavelength. */
export const takesWavelength = ({ kind }) => takers().includes(kind) || (kind === "auto" && takers().length > 0);

/** The kind of a part after a wavelength was given: for an undetected file, the only kind that takes one, if unique. */
export const measuredKind = ({ kind }) => (kind === "auto" && takers().length === 1 ? takers()[0] : kind);

export const WAVELENGTHS = [["", "λ from file"], ["CuKa", "Cu Kα"], ["CoKa", "Co Kα"], ["MoKa", "Mo Kα"]];

export const isFile = (part) => Boolean(KINDS[part.kind]?.file);

/** Whether a file is kept as bytes: compressed, binary, or in UTF-16. */
export const isBinary = (part) => part.value instanceof ArrayBuffer;

/** Whether a part is a file of the user, which the server reads. */
export const isSent = (part) => isFile(part) && (typeof part.value === "string" || isBinary(part));

/** Rows of numbers in a text file; comments, headers and other lines are skipped. */
function rows(text) {
  const numbers = text.split(/\r?\n/).map((line) => line.trim().split(/[\s,;]+/).filter(Boolean).map(Number));
  return numbers.filter((row) => row.length >= 2 && row.every(Number.isFinite));
}

const isCif = (text) => /^[ \t]*data_/m.test(text) && /_cell_length_a/i.test(text);

/** Whether a text is a POSCAR: a scale factor, three vectors, then symbols or counts, which a plain table lacks. */
function isPoscar(text) {
  const lines = text.slice(0, 4000).split(/\r\n|\n|\r/, 8).map((line) => line.split(/[!#]/)[0].trim().split(/\s+/).filter(Boolean));
  const numbers = (words) => words.length > 0 && words.every((word) => Number.isFinite(Number(word)));
  if (lines.length < 6 || !numbers(lines[1].slice(0, 1)) || !lines.slice(2, 5).every((words) => words.length > 2 && numbers(words.slice(0, 3)))) return false;
  const counts = (words) => words.length > 0 && words.every((word) => /^\d+$/.test(word));
  if (counts(lines[5])) return /^[dcks]/i.test(lines.slice(6).find((words) => words.length)?.[0] ?? "");
  return lines[5].length > 0 && lines[5].every((word) => /^[A-Z][a-z]?(?![A-Za-z])/.test(word)) && (!lines[6]?.length || counts(lines[6]));
}

const CIF = /\.m?cif$/i;
const POSCAR = /\.(vasp|poscar|contcar)$|^(poscar|contcar)/i;
const OTHER = /\.(jsonl?|xyz|extxyz)$|^(xdatcar|chgcar)/i;
const unpacked = (name) => name.replace(/\.(gz|bz2|xz)$/i, "");

function fileKind(part) {
  if (part.kind !== "structure") return KINDS[part.kind].file;
  const name = unpacked(part.name);
  if (isBinary(part)) return CIF.test(name) ? "cif" : POSCAR.test(name) ? "poscar" : "auto";
  return isCif(part.value) || CIF.test(name) ? "cif" : "poscar";
}

/** Detect the kind of a file from its name, then from its text; "auto" leaves the detection to the server. */
export function guessFile(name, content) {
  const leaf = unpacked(name);
  const text = typeof content === "string" ? content : "";
  const head = text.slice(0, 4000).toLowerCase();
  const pick = (test) => tables().find(([, { files }]) => test(files))?.[0];
  if (CIF.test(leaf) || POSCAR.test(leaf)) return "structure";
  const identified = pick(({ suffixes }) => suffixes.some((end) => leaf.toLowerCase().endsWith(end))) ?? pick(({ marks }) => marks.some((word) => head.includes(word)));
  if (identified) return identified;
  if (OTHER.test(leaf) || /^\s*[{[]/.test(head)) return "auto";
  const named = pick(({ name_pattern: pattern }) => pattern.test(leaf.toLowerCase()));
  if (named) return named;
  if (isCif(text) || isPoscar(text)) return "structure";
  const clues = tables().flatMap(([kind, { files }]) => files.clues.map((clue) => ({ ...clue, kind })));
  const clue = clues.sort((a, b) => b.strength - a.strength).find(({ pattern }) => pattern.test(head));
  if (clue) return clue.kind;
  const x = rows(text).map((row) => row[0]);
  const signed = x.length > 10 && x.some((value) => value < 0) && pick((files) => files.negative_x);
  return signed || (x.length > 10 && pick((files) => files.x_above !== null && x.at(-1) > files.x_above)) || "auto";
}

const withWavelength = ({ value, wavelength }) => (wavelength ? { ...value, wavelength } : value);

/** Whether a query may contain two files of this kind. Each is a part of its own, and they share their weight. */
export const mayRepeat = (part) => part.kind === "structure" && isSent(part);

/** The API request of a state: `{ body }` for JSON, or `{ form }` if there are files. */
export function toRequest({ parts, filter, k, literal, ignore }) {
  const files = parts.filter(isSent);
  const query = {};
  const weights = {};
  for (const part of parts) {
    weights[KINDS[part.kind].modality] = part.weight;
    if (!files.includes(part)) query[part.kind] = isFile(part) ? withWavelength(part) : part.value;
  }
  const weighted = parts.length > 1 && parts.every((part) => part.kind !== "auto");
  const request = { k, ...(filter && { filter }), ...(literal && { literal }), ...(ignore?.length && { ignore }) };
  if (!files.length) return { body: { query, ...request, ...(weighted && { weights }) } };
  const form = {
    ...request,
    files: files.map((part) => ({ name: part.name, content: part.value, kind: fileKind(part) })),
    wavelength: files.find((part) => part.wavelength)?.wavelength,
    ...(files.length < parts.length && { query: JSON.stringify(query) }),
    ...(weighted && { weights: JSON.stringify(weights) }),
  };
  return { form };
}

/** The parts of an API request, e.g. of an example. */
export function fromRequest({ query = {}, weights = {} }, name = "example") {
  return Object.entries(query).filter(([, value]) => value !== null && value !== undefined).map(([key, value]) => {
    const kind = Object.keys(KINDS).find((name) => KINDS[name].names.includes(key)) ?? key;
    const part = { kind, value, weight: weights[key] ?? weights[KINDS[kind].modality] ?? 1 };
    return isFile(part) ? { ...part, name } : part;
  });
}
