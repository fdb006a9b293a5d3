// Client of the HTTP API. All errors are raised as ApiError.

const TIMEOUT_MS = 60_000;

/** An error, with title and detail from the server if it sent any. */
export class ApiError extends Error {
  constructor(title, detail, status) {
    super(`${title}: ${detail}`);
    Object.assign(this, { title, detail, status });
  }
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  const first = body?.errors?.[0];
  if (first) return new ApiError(first.title ?? "Request refused", first.detail ?? "", response.status);
  return new ApiError(`The server answered ${response.status}`, response.statusText || "It gave no reason.", response.status);
}

const KEY = "crystalign-api-key";
let asking = null;

/** Ask for the API key, once for all concurrent requests; it is stored until the tab is closed. */
function askForKey(refused) {
  asking ??= Promise.resolve().then(() => {
    if (sessionStorage.getItem(KEY) !== refused) return true; // the user has just entered a key for another request
    const key = window.prompt(refused ? "This API key is not the right one. API key:" : "This service requires an API key:");
    if (!key?.trim()) return false;
    sessionStorage.setItem(KEY, key.trim());
    return true;
  }).finally(() => { asking = null; });
  return asking;
}

async function call(path, { signal, ...options } = {}) {
  const key = sessionStorage.getItem(KEY);
  const response = await send(path, key ? { ...options, headers: { ...options.headers, authorization: `Bearer ${key}` } } : options, signal);
  if (response.status === 401 && (await askForKey(key))) return call(path, { signal, ...options });
  if (!response.ok) throw await failure(response);
  return response;
}

async function send(path, options, signal) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  try {
    return await fetch(path, { ...options, signal: signal ? AbortSignal.any([signal, limit]) : limit });
  } catch (error) {
    if (signal?.aborted) throw error;
    const detail = limit.aborted ? `It took longer than ${TIMEOUT_MS / 1000} s.` : "Is it still running? Try again in a moment.";
    throw new ApiError("The server did not answer", detail, 0);
  }
}

const json = async (path, options) => (await call(path, options)).json();
const material = (id) => `/api/materials/${encodeURIComponent(id)}`;

export const info = () => json("/api/info");
export const health = () => json("/api/health");
export const describe = (id, signal) => json(material(id), { signal });
export const predictions = async (id, signal) => (await json(`${material(id)}/predictions`, { signal })).results[0];
export const cifPath = (id) => `${material(id)}/cif`;
export const cif = async (id, signal) => (await call(cifPath(id), { signal })).text();

/** Download a file with the API key, because a plain link cannot send it. */
export async function downloadWithKey(event, id, name) {
  if (!sessionStorage.getItem(KEY)) return;
  event.preventDefault();
  const url = URL.createObjectURL(new Blob([await cif(id)], { type: "chemical/x-cif" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function curve(id, kind, wavelength, signal) {
  return json(`${material(id)}/curve/${encodeURIComponent(kind)}?wavelength=${encodeURIComponent(wavelength || "CuKa")}`, { signal });
}

/** Run a search: `{ body }` as JSON, or `{ form }` as an upload. */
export function search({ body, form }, signal) {
  if (form) {
    const data = new FormData();
    for (const { name, content, kind } of form.files) {
      data.append("file", new Blob([content]), name);
      data.append("kind", kind);
    }
    for (const [name, value] of Object.entries({ ...form, files: null })) {
      for (const one of Array.isArray(value) ? value : [value]) { // a list is a repeated field
        if (one !== null && one !== undefined && one !== "") data.append(name, String(one));
      }
    }
    return json("/api/search/file", { method: "POST", body: data, signal });
  }
  return json("/api/search", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}
