// What the service understood of typed words: conditions as chips that can be removed, the other words, and notes.
//
// The user's choices are part of the page's state: `ignore` lists the words of removed chips, `literal` says that words
// are only compared. The service interprets the words; nothing is interpreted here.

import { $, el, pretty } from "./dom.js";
import { isFile } from "./query.js";

const LONGEST_HEADING = 60; // characters
const SHOWN_REMARKS = 2;
const labels = new Map(); // words of a chip → its labels: the service no longer sends the label of a removed chip
let focusNext = null;

const lower = (text) => String(text).toLowerCase();
const typedWords = ({ parts }) => parts.filter((part) => !isFile(part) && part.kind !== "id").map(({ value }) => String(value));

/** A text with a capital letter at the start. */
export const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}`;

/** The next state with the user's choices of the one before, as far as they concern words that are still typed. */
export function keepChoices(next, before) {
  const [now, then] = [next, before].map((state) => JSON.stringify(typedWords(state)));
  if (now === then) return { ...next, literal: before.literal, ignore: before.ignore };
  const text = lower(typedWords(next).join(" "));
  return { ...next, literal: false, ignore: before.ignore.filter((words) => text.includes(lower(words))) };
}

/** Chips and removed words in the order in which they were typed, as far as the words occur in the text. */
function inOrder(chips, removed, text) {
  const position = (words) => (lower(text).indexOf(lower(words)) + 1 || Infinity);
  const items = chips.map((chip) => ({ words: chip.words, chip }));
  for (const words of removed) {
    const next = items.findIndex((item) => position(item.words) > position(words));
    items.splice(next < 0 ? items.length : next, 0, { words, chip: null });
  }
  return items;
}

function strength({ strict, then }) {
  if (then?.length) return [" – Results that satisfy it come first; then ", el("code", null, then.at(-1))];
  return strict ? null : " – Results that satisfy it come first.";
}

function explanation(chip) {
  const kind = chip.kind ? [" (", chip.kind.replaceAll("_", " "), ")"] : [];
  return [`“${chip.words}”`, ...kind, ": ", el("code", null, chip.filter), strength(chip)].flat().filter(Boolean);
}

function title({ label, kind, words, filter, note }) {
  return [label, `“${words}” (${kind.replaceAll("_", " ")})`, filter, note].filter(Boolean).join("\n");
}

/** Show or hide the explanation of a chip below the row, for touch and keyboard, which have no tooltips. */
function toggle(button, chip) {
  const open = button.getAttribute("aria-expanded") === "true";
  for (const other of $("understood").querySelectorAll("[aria-expanded]")) other.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-expanded", String(!open));
  $("condition").hidden = open;
  $("condition").replaceChildren(...explanation(chip));
}

function condition(chip, remove) {
  const about = el("button", {
    type: "button", class: "about", title: title(chip), "aria-expanded": "false", "aria-controls": "condition",
    onclick: () => toggle(about, chip),
  }, el("span", { class: "clamp" }, el("span", null, chip.strict ? null : el("span", { class: "first" }, "first: "), pretty(chip.label))));
  return el("li", { class: chip.strict ? "condition" : "condition loose" }, about,
    el("button", { type: "button", class: "drop", title: "Do not use", "aria-label": `Do not use: ${chip.label}`, "data-words": chip.words, onclick: remove }, "×"));
}

function removed(words, restore) {
  const label = labels.get(words)?.join(", ") ?? words;
  return el("li", { class: "condition removed" }, el("span", { class: "about", title: `“${words}” is not used as a condition` }, el("s", { class: "clamp" }, el("span", null, pretty(label)))),
    el("button", { type: "button", class: "drop", title: "Put back", "aria-label": `Put back: ${label}`, "data-words": words, onclick: restore }, "↺"));
}

function remember(chips) {
  for (const { words } of chips) labels.set(words, [...new Set(chips.filter((chip) => chip.words === words).map(({ label }) => label))]);
}

function row(chips, state, change) {
  const { ignore } = state;
  const without = (words) => () => {
    focusNext = words;
    change({ ignore: [...new Set([...ignore, words])] });
  };
  const back = (words) => () => {
    focusNext = words;
    change({ ignore: ignore.filter((other) => other !== words) });
  };
  const items = inOrder(chips, ignore, typedWords(state).join(" "));
  return el("ul", { class: "conditions", role: "list", "aria-label": "Conditions" }, items.map(({ words, chip }) => (chip ? condition(chip, without(words)) : removed(words, back(words)))));
}

/** A button that switches between interpreted words and words that are only compared. */
function switchTo(literal, text, change) {
  return el("button", { type: "button", class: "link", "data-words": "", onclick: () => {
    focusNext = "";
    change({ literal });
  } }, text);
}

function lines({ chips, rest, notes }) {
  const remarks = [...new Set([...chips.filter(({ note }) => note).map(({ label, note }) => `${sentence(label)}: ${note}`), ...notes.map(sentence)])];
  const list = (texts) => (texts.length ? el("ul", { class: "remarks-list" }, texts.map((text) => el("li", null, pretty(text)))) : null);
  return [
    rest ? el("p", { class: "rest" }, `Compared as text: “${rest}”`) : null,
    list(remarks.slice(0, SHOWN_REMARKS)),
    remarks.length > SHOWN_REMARKS ? el("details", null, el("summary", null, `${remarks.length - SHOWN_REMARKS} more remarks`), list(remarks.slice(SHOWN_REMARKS))) : null,
  ];
}

/**
 * Show in `host` what was understood. `understood` is null for a query without words and for words that are only
 * compared; `change` is called with a changed `ignore` or `literal`. `refused`: the conditions were, so that only the
 * words can be searched for.
 */
export function showUnderstood(host, state, understood, change, refused = false) {
  const { chips = [], rest = "", notes = [] } = understood ?? {};
  remember(chips);
  host.dataset.typed = JSON.stringify(typedWords(state));
  const hasFocus = host.contains(document.activeElement);
  const some = chips.length + state.ignore.length > 0;
  host.hidden = !typedWords(state).length || !(understood || state.literal || some || refused);
  if (host.hidden) return host.replaceChildren();
  host.replaceChildren(...(state.literal
    ? [el("p", null, "Searched for these words only. ", switchTo(false, "Use them as conditions", change))]
    : [
      el("div", { class: "understood" },
        some ? [el("span", { class: "muted" }, "Understood:"), row(chips, state, change)] : refused ? null : el("span", null, "No word was understood as a condition."),
        chips.length || refused ? switchTo(true, "Search for these words only", change) : null),
      el("p", { id: "condition", "aria-live": "polite", hidden: true }),
      ...lines({ chips, rest, notes }),
    ]).filter(Boolean));
  const target = focusNext === null || !hasFocus ? null : [...host.querySelectorAll("[data-words]")].find((button) => button.dataset.words === focusNext);
  focusNext = null;
  return target?.focus();
}

/** Hide what was understood of other words than those of the state. */
export function hideOther(host, state) {
  if (host.dataset.typed !== JSON.stringify(typedWords(state))) host.hidden = true;
}

/**
 * Headings of results in tiers, as [position, text]; none if all satisfy everything.
 *
 * Later tiers satisfy the strict conditions, perhaps in a weaker form, and the others not at all.
 */
export function tierHeadings(results, understood) {
  const tiers = results.map(({ tier }) => tier ?? 0);
  if (!tiers.some((tier) => tier > 0)) return [];
  const starts = tiers.map((tier, i) => i).filter((i) => i === 0 || tiers[i] !== tiers[i - 1]);
  const loose = (understood?.chips ?? []).filter(({ strict }) => !strict).map(({ label }) => label).join(", ");
  const named = loose.length > 0 && loose.length <= LONGEST_HEADING;
  const number = starts[1] === 1 ? "satisfies" : `${starts[1]} satisfy`;
  const follow = loose ? "neighbours" : "matches";
  const first = !loose ? "Best matches" : named ? sentence(loose) : `The first ${number} everything; the following are neighbours`;
  const none = named ? `Not found: ${loose} – these come closest` : "No exact match; these come closest";
  const texts = tiers[0] > 0 ? [none, `Further ${follow}`] : [first, loose ? "Neighbours" : "Further matches", loose ? "Further neighbours" : null];
  return starts.slice(0, texts.length).map((i, n) => [i, texts[n]]).filter(([, text]) => text);
}
