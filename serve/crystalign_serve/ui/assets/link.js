// Encode a search as a URL fragment, and decode it. Files are compressed. For a file that is too large, only the name
// is stored, and the page asks for the file again.

import { isBinary, isFile, KINDS } from "./query.js";

const LONGEST_URL = 8000;
const LARGEST_FILE = 8 * 2 ** 20;
const BINARY = "!"; // stands for a binary file, which is not stored
export const DEFAULT_K = 12;

async function through(stream, bytes, limit = Infinity) {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const chunks = [];
  for (let size = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) return new Blob(chunks).arrayBuffer();
    size += value.length;
    if (size > limit) throw new Error("the file in this link is larger than 8 MB");
    chunks.push(value);
  }
}

async function pack(text) {
  const packed = new Uint8Array(await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(text)));
  const binary = Array.from(packed, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function unpack(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  return new TextDecoder().decode(await through(new DecompressionStream("deflate-raw"), bytes, LARGEST_FILE));
}

/** The URL fragment of a state, and whether it contains the whole query. */
export async function encode(state) {
  const write = async (withFiles) => {
    const query = new URLSearchParams();
    for (const part of state.parts) {
      const content = isFile(part) ? (isBinary(part) ? BINARY : JSON.stringify([part.value, part.wavelength ?? ""])) : null;
      const packed = content === BINARY ? BINARY : content && withFiles ? await pack(content) : "";
      query.append(part.kind, content === null ? part.value : `${packed}~${part.name}`);
      if (part.weight !== 1) query.set(`w.${part.kind}`, part.weight);
    }
    if (state.filter) query.set("filter", state.filter);
    if (state.k !== DEFAULT_K) query.set("k", state.k);
    if (state.literal) query.set("literal", 1);
    for (const words of state.ignore) query.append("ignore", words);
    if (state.open) query.set("open", state.open);
    return query.toString();
  };
  const full = await write(true);
  if (full.length <= LONGEST_URL) return { hash: full, complete: !state.parts.some((part) => isFile(part) && isBinary(part)) };
  return { hash: await write(false), complete: false };
}

/** The state of a URL fragment. Throws an Error that names a file which the link does not contain. */
export async function decode(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const parts = [];
  const given = Object.keys(KINDS).flatMap((kind) => query.getAll(kind).filter(Boolean).map((value) => [kind, value]));
  for (const [kind, value] of given) {
    const part = { kind, value, weight: Number(query.get(`w.${kind}`) ?? 1) };
    if (!isFile(part) && parts.some((other) => other.kind === kind)) continue;
    if (isFile(part)) {
      const cut = part.value.indexOf("~");
      const [packed, name] = [part.value.slice(0, cut), part.value.slice(cut + 1)];
      if (packed === BINARY) throw new Error(`The file ${name} cannot be put into a link. Drop it here again to repeat the search.`);
      if (!packed) throw new Error(`The file ${name} was too large for the link. Drop it here again to repeat the search.`);
      const [content, wavelength] = JSON.parse(await unpack(packed));
      Object.assign(part, { name, value: content, wavelength });
    }
    parts.push(part);
  }
  const k = Number(query.get("k") ?? DEFAULT_K);
  const ignore = [...new Set(query.getAll("ignore").filter(Boolean))];
  return { parts, filter: query.get("filter") ?? "", k, literal: query.get("literal") === "1", ignore, open: query.get("open") };
}
