// The page. Its state (parts, filter, k, open material) is stored in the URL and the browser history.

import * as api from "./api.js";
import { showDetail } from "./detail.js";
import { $, el } from "./dom.js";
import { makeForm, showExamples, showFields, showKinds } from "./form.js";
import { decode, encode } from "./link.js";
import { isBinary, learn, takesWavelength, toRequest } from "./query.js";
import { question } from "./reading.js";
import { arrowKeys, markOpen, showLoading, showResults } from "./results.js";
import { hideOther, keepChoices, sentence, showUnderstood, tierHeadings } from "./understood.js";

const EMPTY = { parts: [], filter: "", k: 12, literal: false, ignore: [], open: null };
const REMEMBERED = 12;
const answers = new Map();
const running = { search: new AbortController(), detail: new AbortController() };
let state = EMPTY;
let shown = null;
let complete = true;
let index = null;

const form = makeForm({ search: (how) => go(keepChoices({ ...form.read(), open: null }, state), how), fail: showError, ask });
const similar = ({ id }) => go({ ...EMPTY, k: state.k, parts: [{ kind: "id", value: id, weight: 1 }] });
const open = ({ id }) => go({ ...state, open: id }, { replace: state.open !== null });
const close = () => go({ ...state, open: null });

/** Go to a state: write it to the URL and the history, then show it. */
async function go(next, { replace = false } = {}) {
  const { hash, complete: whole } = await encode(next);
  const write = history[replace ? "replaceState" : "pushState"].bind(history);
  const url = hash ? `#${hash}` : location.pathname;
  try {
    write({ ...next, complete: whole }, "", url);
  } catch {
    write(null, "", url); // browsers limit how much a history entry may hold
  }
  await enter(next, whole);
}

async function enter(next, whole) {
  const sameSearch = shown !== null && shown === searchKey(next);
  const from = state.open;
  [state, complete] = [next, whole];
  if (!sameSearch) form.write(next);
  const alone = !next.parts.length && next.open !== null;
  $("page").classList.toggle("alone", alone);
  $("page").dataset.view = next.parts.length || alone ? "results" : "start";
  if (!next.parts.length) {
    showStart();
    if (alone) document.title = `${next.open} – Crystalign`;
    if (alone) showOpen(from);
    return undefined;
  }
  if (!sameSearch) await search();
  if (state === next) showOpen(from);
  return undefined;
}

/** Show the state of a link, a reload, or the back button. */
async function arrive() {
  const held = history.state;
  try {
    const next = held?.parts ? held : await decode(location.hash);
    await enter({ ...EMPTY, ...next }, held?.complete ?? true);
  } catch (error) {
    [state, shown] = [EMPTY, null];
    form.write(EMPTY);
    showError("This link cannot be opened", error.message);
  }
}

const searchKey = ({ parts, filter, k, literal, ignore }) => JSON.stringify([parts, filter, k, literal, ignore]);

function showStart() {
  running.search.abort();
  running.detail.abort();
  shown = null;
  $("page").classList.remove("opened");
  document.title = "Crystalign";
  for (const id of ["status", "results", "understood"]) $(id).replaceChildren();
  $("understood").hidden = true;
  $("detail").hidden = true;
}

async function search() {
  running.search.abort();
  const { signal } = (running.search = new AbortController());
  const key = searchKey(state);
  shown = key;
  document.title = `${state.parts.map((part) => part.name ?? part.value).join(" + ").slice(0, 60)} – Crystalign`;
  try {
    if (!answers.has(key)) {
      $("status").replaceChildren(el("p", { class: "muted" }, "Searching…"));
      showLoading($("results"), state.k);
      hideOther($("understood"), state);
      const answer = await api.search(toRequest(state), signal);
      answers.set(key, answer);
      if (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
    }
    showAnswer(answers.get(key));
  } catch (error) {
    if (!signal.aborted) showError(error.title ?? "This query cannot be sent", error.detail ?? error.message);
    if (shown === key) shown = null;
  }
}

/** Show what was understood of the words; a changed choice repeats the search. */
const showChips = (understood, refused) => showUnderstood($("understood"), state, understood, (choice) => go({ ...state, ...choice, open: null }), refused);

/** How many crystals are shown, and of which. */
function summaryOf({ results, allowed, query }) {
  const number = (value) => Number(value).toLocaleString("en");
  const limits = [query?.understood?.chips?.some(({ strict }) => strict) && "satisfy the conditions", state.filter && "pass the filter"].filter(Boolean);
  return `${number(results.length)} of ${number(allowed ?? index?.rows ?? results.length)} crystals${limits.length ? ` that ${limits.join(" and ")}` : ""}`;
}

/** The message in place of results. The notices say why there are none. */
function emptyMessage(notices, understood) {
  const advice = understood?.chips?.length ? "Remove one of the conditions above." : "The index returned no result for this query.";
  const reasons = notices.length ? notices : [state.filter ? "No crystal in the index passes this filter. Relax it and search again." : advice];
  return el("div", { class: "message" }, el("h2", null, "No crystal matches"), reasons.map((reason) => el("p", null, `${sentence(reason).replace(/\.$/, "")}.`)));
}

/** A doubt whether the best results match; nothing if they probably do. */
const confidenceNote = ({ level, text }) => (level === "high" ? null : el("p", { class: level === "low" ? "confidence warning" : "confidence note", role: "status" }, text));

function showAnswer(answer) {
  const { results, query } = answer;
  const said = query?.notices ?? [];
  const notices = results.length ? said.map((notice) => el("p", { class: "note" }, notice)) : [];
  const partial = answer.shards_ok < answer.shards_total
    ? el("p", { class: "warning" }, `Only ${answer.shards_ok} of ${answer.shards_total} shards answered; results may be missing.`)
    : null;
  const confidence = query?.confidence ? confidenceNote(query.confidence) : null;
  const empty = results.length ? null : emptyMessage(said, query?.understood);
  const summary = results.length ? el("div", { class: "summary" }, el("p", null, summaryOf(answer)), shareButton()) : null;
  $("status").replaceChildren(...[empty, confidence, ...notices, ...otherReadings(query?.understood), partial, orderNote(answer), summary].filter(Boolean));
  showChips(answer.query?.understood);
  showResults($("results"), results, { onOpen: open, onSimilar: similar }, tierHeadings(results, answer.query?.understood));
  showIndex({ shards_ok: answer.shards_ok, shards_total: answer.shards_total, version: answer.index_version, elapsed: answer.elapsed_ms });
}

/** The note above results whose scores are not in rank order. */
function orderNote({ results, query }) {
  const rises = (result, i) => i > 0 && result.score > results[i - 1].score && result.tier === results[i - 1].tier;
  if (!results.some(rises)) return null;
  const order = query?.ordered_by ?? "";
  const two = (first, second, scored) => `The order combines two rankings, by ${first} and by ${second}. The scores are those of the ${scored} alone, so they may not decrease with rank.`;
  const why = /pattern/.test(order) ? two("embedding", "pattern match", "pattern match")
    : /words/.test(order) || query?.understood?.rest ? two("embedding", "the words of the texts", "embeddings")
    : "The service set this order; the scores do not decrease with rank.";
  return el("p", { class: "note" }, why);
}

/** Notes for searched texts that may also be a formula or a chemical system, with buttons for those readings. */
function otherReadings(understood) {
  const did = (words) => (understood?.chips?.length ? `“${words}” can also be read as` : `Searched for the words “${words}”. Search instead for`);
  return state.parts.filter((part) => part.kind === "text").map((part) => {
    const ambiguity = question(part.value, state.filter);
    return ambiguity && el("p", { class: "note actions" }, el("span", null, did(part.value)), readings(part, ambiguity));
  }).filter(Boolean);
}

function readings(part, ambiguity) {
  const run = ({ kind, value, filter }) => {
    const others = state.parts.filter((other) => other !== part && other.kind !== kind);
    return go(keepChoices({ ...state, parts: [...others, { ...part, kind, value }], filter, open: null }, state));
  };
  const answers = ambiguity.answers.filter((answer) => answer.kind !== part.kind || answer.value !== part.value);
  return answers.map((answer) => el("button", { type: "button", class: "quiet", onclick: () => run(answer) }, answer.label));
}

/** Show a question instead of the results; `choose` is called with the answer that the user clicks. */
function ask({ title, detail, answers: choices }, choose) {
  running.search.abort();
  showError(title, detail);
  $("understood").hidden = true;
  shown = null;
  const button = (answer) => el("button", { type: "button", class: "quiet", onclick: () => choose(answer) }, answer.label);
  $("status").replaceChildren(el("div", { class: "message", id: "question", role: "alert" },
    el("h2", null, title), el("p", null, detail), el("p", { class: "actions" }, choices.map(button))));
  $("question").querySelector("button").focus();
}

function shareButton() {
  const says = el("output", { class: "muted" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      says.replaceChildren("Copied");
    } catch {
      says.replaceChildren("Copy it from the address bar");
    }
  };
  if (complete) return el("span", { class: "share" }, says, el("button", { type: "button", class: "quiet", onclick: copy }, "Copy link"));
  const why = state.parts.some(isBinary) ? "The file cannot be put into a link: share the file itself." : "The file is too large for a link: share the file with it.";
  return el("span", { class: "share muted" }, why);
}

function showError(title, detail) {
  running.detail.abort();
  $("page").dataset.view = "results";
  $("page").classList.remove("opened", "alone");
  $("detail").hidden = true;
  $("results").replaceChildren();
  showChips(null, /\bliteral\b/.test(detail));
  const [message, ...pointer] = String(detail).split("\n"); // further lines point at a position: use a fixed-width font
  const ambiguous = state.parts.filter((part) => part.kind === "formula").map((part) => [part, question(part.value, state.filter)]).find(([, ambiguity]) => ambiguity);
  const asks = /wavelength/i.test(`${title} ${detail}`) && state.parts.some(takesWavelength);
  $("status").replaceChildren(el("div", { class: "message error", role: "alert" },
    el("h2", null, title), el("p", null, message), pointer.length ? el("pre", null, pointer.join("\n")) : null, asks ? askWavelength() : null, ambiguous ? el("p", { class: "actions" }, readings(...ambiguous)) : null));
}

function askWavelength() {
  const lines = [["CuKa", "Cu Kα"], ["CoKa", "Co Kα"], ["MoKa", "Mo Kα"]];
  const other = el("input", { type: "number", min: 0.1, max: 5, step: "any", placeholder: "Å", "aria-label": "Wavelength in ångström", id: "angstrom" });
  const use = () => other.value && form.setWavelength(other.value);
  return el("p", { class: "actions", id: "ask-wavelength" },
    el("span", null, "Measured with"),
    lines.map(([value, text]) => el("button", { type: "button", class: "quiet", onclick: () => form.setWavelength(value) }, text)),
    other, el("button", { type: "button", class: "quiet", onclick: use }, "Use"));
}

function showOpen(from) {
  running.detail.abort();
  markOpen($("results"), state.open);
  $("page").classList.toggle("opened", state.open !== null);
  if (state.open === null) {
    $("detail").hidden = true;
    $("detail").replaceChildren();
    if (from) $("results").querySelector(`[data-id="${CSS.escape(from)}"] .open`)?.focus();
    return;
  }
  const { signal } = (running.detail = new AbortController());
  const context = { query: answers.get(shown)?.query?.curve, wavelength: state.parts.find((part) => part.wavelength)?.wavelength };
  showDetail($("detail"), state.open, context, { onSimilar: similar, onClose: close }, signal);
  $("detail").scrollTop = 0;
  if (!matchMedia("(max-width: 899px)").matches) return;
  $("detail").focus({ preventScroll: true });
  $("detail").scrollIntoView();
}

function showIndex(now) {
  index = { ...index, ...now };
  const ok = `${index.shards_ok ?? "–"}/${index.shards_total ?? "–"}`;
  const entries = [
    ["Crystals", index.rows?.toLocaleString("en")], ["Shards", ok], ["Index", index.version], ["Model", index.model],
    ["Answered in", index.elapsed === undefined ? null : `${index.elapsed < 10 ? index.elapsed.toFixed(1) : Math.round(index.elapsed)} ms`],
  ].filter(([, value]) => value !== undefined && value !== null);
  const low = index.shards_ok < index.shards_total;
  $("index").replaceChildren(...entries.map(([name, value]) => el("div", { class: name === "Shards" && low ? "warning" : null }, el("dt", null, name), el("dd", null, String(value)))));
}

async function showInfo(request) {
  try {
    const [info, health] = await Promise.all([request, api.health().catch(() => ({}))]);
    $("notice").hidden = !info.notice;
    $("notice").replaceChildren(info.notice ?? "");
    showFields(info.fields ?? []);
    showExamples(info.example_queries ?? [], (query) => go({ ...EMPTY, ...query }));
    showIndex({ rows: info.index?.rows, version: info.index?.version, model: info.model?.name, shards_ok: health.shards_ok, shards_total: health.shards_total });
  } catch (error) {
    $("index").replaceChildren(el("div", { class: "warning" }, el("dt", null, error.title ?? "Status unknown"), el("dd", null, error.detail ?? "")));
  }
}

function listen() {
  addEventListener("popstate", arrive);
  $("home").addEventListener("click", (event) => {
    event.preventDefault();
    go(EMPTY).then(() => $("box").focus());
  });
  addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input, textarea, select");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      $("box").select();
    }
    if (event.key === "ArrowDown" && event.target === $("box")) $("results").querySelector(".open")?.focus();
    if (event.key === "Escape" && !writing && state.open) close();
  });
  const show = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("drop").hidden = event.type === "drop";
  };
  for (const type of ["dragenter", "dragover", "drop"]) addEventListener(type, show);
  addEventListener("dragleave", (event) => event.relatedTarget === null && ($("drop").hidden = true));
  addEventListener("drop", (event) => event.dataTransfer?.files.length && form.takeFiles([...event.dataTransfer.files]));
  arrowKeys($("results"));
}

listen();
const infoRequest = api.info();
await infoRequest.then(({ modalities }) => learn(modalities), () => learn()); // links refer to kinds that the service declares
showKinds();
await Promise.all([showInfo(infoRequest), arrive()]);
