// The list of results: one card per material.

import { el, formula, label, pretty, quantity, spaceGroup } from "./dom.js";

const SHOWN = 3;

function property(entry) {
  const unit = entry.unit ? `\u202f${entry.unit}` : "";
  return el("div", { class: "property" }, el("dt", { title: label(entry) }, label(entry)), el("dd", null, quantity(entry.value), el("small", null, unit)));
}

/** The properties that have a value, as a definition list. */
export function properties(entries, count = Infinity) {
  const withValue = (entries ?? []).filter((entry) => entry.value !== null && entry.value !== undefined);
  return withValue.length ? el("dl", { class: "properties" }, withValue.slice(0, count).map(property)) : null;
}

/** Stored predictions as entries of a definition list, which says that they are predicted. */
const asProperties = (predictions) => (predictions ?? []).map((entry) => ({ ...entry, label: `${entry.label}, predicted` }));

/** A mark for crystals that were neither measured nor relaxed; null for others. */
export const hypothetical = (material) => (material.hypothetical ? el("span", { class: "warning", title: "Made by substitution of elements; neither measured nor relaxed" }, "hypothetical") : null);

/** Warnings about the structure; null if there are none. */
export const remarks = (material) => (material.remarks ? el("p", { class: "warning remarks" }, material.remarks) : null);

function scoreTitle({ match }) {
  if (!match) return "Similarity to the query: weighted cosine";
  const strain = `${match.strain < 0 ? "−" : "+"}${Math.abs(100 * match.strain).toFixed(1)} %`;
  return `Similarity of the patterns with the cell changed by ${strain}; of the embeddings: ${Number(match.embedding_score).toFixed(3)}`;
}

function card(result, top, { onOpen, onSimilar }) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
  bar.firstChild.style.width = `${Math.min(100, Math.max(0, (100 * result.score) / Math.max(1, top))).toFixed(1)}%`;
  const open = el("button", { type: "button", class: "open", "aria-pressed": "false", onclick: () => onOpen(result) }, formula(result.formula));
  return el("li", { class: "card", "data-id": result.id, onclick: (event) => event.target.closest("button") ?? onOpen(result) },
    el("header", null,
      el("span", { class: "rank" }, el("span", { class: "hidden" }, "Rank "), result.rank),
      el("h3", null, open),
      el("span", { class: "score", title: scoreTitle(result) }, bar, Number(result.score).toFixed(3).replace("-", "−")),
    ),
    el("p", { class: "facts" },
      spaceGroup(result.spacegroup_symbol, result.spacegroup_number),
      result.n_sites ? el("span", null, `${result.n_sites} site${result.n_sites === 1 ? "" : "s"}`) : null,
      hypothetical(result),
    ),
    remarks(result),
    properties([...(result.properties ?? []), ...asProperties(result.predictions)], SHOWN),
    el("footer", null,
      el("span", { class: "id", title: `${result.id} · ${result.source ?? ""}` }, result.id, result.source ? el("span", { class: "muted" }, ` · ${result.source}`) : null),
      el("button", { type: "button", class: "link", onclick: () => onSimilar(result) }, "Find similar"),
    ),
  );
}

/** Fill the list with one card per result, and with headings as [position of the card below, text]. */
export function showResults(list, results, handlers, headings = []) {
  const above = new Map(headings);
  const heading = (text) => (text ? [el("li", { class: "tier" }, el("h2", null, pretty(text)))] : []);
  list.replaceChildren(...results.flatMap((result, i) => [...heading(above.get(i)), card(result, results[0].score, handlers)]));
}

export function showLoading(list, count) {
  const skeleton = () => el("li", { class: "card skeleton", "aria-hidden": "true" }, el("i"), el("i"), el("i"));
  list.replaceChildren(...Array.from({ length: Math.min(count, 6) }, skeleton));
}

/** Mark the card of the open material. */
export function markOpen(list, id) {
  for (const item of list.children) {
    const open = item.dataset.id === id && id !== null;
    item.classList.toggle("current", open);
    item.querySelector(".open")?.setAttribute("aria-pressed", String(open));
    if (open) item.scrollIntoView({ block: "nearest" });
  }
}

/** The card in the next row (step 1) or the previous one (-1), in the same column or the last one of a shorter row. */
function beside(buttons, at, step) {
  const tops = buttons.map((button) => button.closest(".card").offsetTop);
  const rows = [...new Set(tops)];
  const next = rows.indexOf(tops[at]) + step;
  if (next < 0 || next >= rows.length) return next < 0 ? 0 : buttons.length - 1;
  return Math.min(tops.indexOf(rows[next]) + at - tops.indexOf(tops[at]), tops.lastIndexOf(rows[next]));
}

/** Move among cards by keys: left and right by one, up and down by a row, Home and End. */
export function arrowKeys(list) {
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll(".open")];
    const at = buttons.indexOf(event.target);
    if (at < 0) return;
    const move = { ArrowRight: () => at + 1, ArrowLeft: () => at - 1, ArrowDown: () => beside(buttons, at, 1), ArrowUp: () => beside(buttons, at, -1), Home: () => 0, End: () => buttons.length - 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    buttons[Math.min(buttons.length - 1, Math.max(0, move()))].focus();
  });
}
