// The query form: search box with detected kind, parts with weights, filter with help, examples.

import { $, el } from "./dom.js";
import { fromRequest, guessFile, isFile, isSent, KINDS, mayRepeat, measuredKind, takesWavelength, typedKinds, WAVELENGTHS } from "./query.js";
import { guess, question } from "./reading.js";
import { DEFAULT_K } from "./link.js";

const LARGEST = 8 * 2 ** 20;

/** The text of a UTF-8 file; null for any other file, which is sent as bytes. */
function textOf(bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

/**
 * The form's own state is `parts`, the box and its kind. Callbacks: `search` runs the query, `fail` shows an error with
 * title and reason, `ask` shows a question and calls its second argument with the chosen answer.
 */
export function makeForm({ search, fail, ask }) {
  let parts = [];
  let chosen = false;
  let searched = "";
  let settled = "";

  const typed = () => $("box").value.trim();
  const boxPart = () => ({ kind: $("kind").value, value: typed(), weight: 1 });
  const addPart = (part, beside = false) => {
    const isReplaced = (other) => (other.kind === part.kind && !beside) || (isFile(part) && other.kind === "auto");
    parts = [...parts.filter((other) => !isReplaced(other)), part];
  };

  /** If a typed text is ambiguous, ask what it is and call `goOn` after the answer; false if it is not ambiguous. */
  function isAmbiguous(goOn) {
    const unsure = typed() && !chosen && $("kind").value === "text" && typed() !== settled;
    const ambiguity = unsure ? question(typed(), $("filter").value) : null;
    if (!ambiguity || ambiguity.common) return false;
    ask(ambiguity, (answer) => {
      $("box").value = settled = answer.value;
      $("kind").value = answer.kind;
      $("filter").value = answer.filter;
      chosen = true;
      showGuess();
      goOn();
    });
    return true;
  }

  function showGuess() {
    const text = typed();
    if (!text) chosen = false;
    if (text && !chosen) $("kind").value = guess(text);
    $("kind").hidden = $("add").hidden = !text;
  }

  function clearBox() {
    $("box").value = "";
    showGuess();
  }

  function pin() {
    if (typed()) addPart(boxPart());
    clearBox();
    showParts();
  }

  function submit() {
    if (isAmbiguous(submit)) return;
    if (parts.length && typed()) pin();
    searched = typed();
    search();
  }

  function wavelengthControl(part) {
    const custom = part.wavelength && !WAVELENGTHS.some(([value]) => value === part.wavelength);
    const wavelengths = custom ? [...WAVELENGTHS, [part.wavelength, `${part.wavelength} Å`]] : WAVELENGTHS;
    const choices = wavelengths.map(([value, text]) => el("option", { value, selected: (part.wavelength ?? "") === value }, text));
    return el("select", { class: "chip", "aria-label": "Wavelength", onchange: (event) => changed(part, { wavelength: event.target.value }) }, choices);
  }

  function weightControl(part) {
    const shown = el("output", null, part.weight.toFixed(2));
    const slider = el("input", {
      type: "range", min: 0.05, max: 1, step: 0.05, value: part.weight, "aria-label": `Weight of ${KINDS[part.kind].label}`,
      oninput: () => shown.replaceChildren(Number(slider.value).toFixed(2)),
      onchange: () => changed(part, { weight: Number(slider.value) }),
    });
    return el("span", { class: "weight" }, slider, shown);
  }

  function changed(part, change) {
    const shared = "weight" in change ? { weight: change.weight } : {};
    parts = parts.map((other) => (other === part ? { ...part, ...change } : other.kind === part.kind ? { ...other, ...shared } : other));
    showParts();
    search({ replace: true });
  }

  function kindControl(part) {
    if (!isSent(part)) return el("span", { class: "chip" }, KINDS[part.kind].label);
    const kinds = Object.entries(KINDS).filter(([, entry]) => entry.file);
    const choices = kinds.map(([kind, entry]) => el("option", { value: kind, selected: kind === part.kind }, entry.label));
    return el("select", { class: "chip", "aria-label": "Read this file as", onchange: (event) => changed(part, { kind: event.target.value }) }, choices);
  }

  function showParts() {
    $("parts").replaceChildren(...parts.map((part) => el("li", { class: "part" },
      kindControl(part),
      el("span", { class: "value", title: part.name ?? part.value }, part.name ?? part.value),
      isSent(part) && takesWavelength(part) ? wavelengthControl(part) : null,
      parts.length > 1 && parts.every((other) => other.kind !== "auto") ? weightControl(part) : null,
      el("button", { type: "button", class: "remove", "aria-label": `Remove ${part.name ?? part.value}`, onclick: () => {
        parts = parts.filter((other) => other !== part);
        showParts();
        $("box").focus();
      } }, "×"),
    )));
    $("box").placeholder = parts.length ? "Add a formula, description or id" : "Formula, description or id";
  }

  async function read(file) {
    if (file.size > LARGEST) throw new Error(`it has ${(file.size / 2 ** 20).toFixed(1)} MB; the limit is 8 MB`);
    if (file.size === 0) throw new Error("it is empty");
    const bytes = await file.arrayBuffer();
    const text = textOf(bytes);
    const part = { kind: guessFile(file.name, text), value: text ?? bytes, name: file.name, weight: 1 };
    return text === null ? { ...part, stamp: `${file.size} ${Date.now()} ${Math.random()}` } : part;
  }

  /** Add files to the query. A text that was already searched is replaced. */
  async function takeFiles(files) {
    const taken = [];
    for (const file of files) {
      try {
        taken.push(await read(file));
      } catch (error) {
        fail(`${file.name} cannot be used`, `The reason: ${error.message}.`);
        return;
      }
    }
    const twice = taken.find((part, i) => !mayRepeat(part) && taken.findIndex((other) => other.kind === part.kind) < i);
    if (twice) {
      fail("Too many files of one kind", `A query can have one ${KINDS[twice.kind].label} file. Search with ${twice.name} separately.`);
      return;
    }
    const there = taken.length === 1 ? parts.find((other) => isFile(other) && other.kind === taken[0].kind) : null;
    if (!there) join(taken);
    else ask(replacement(there, taken[0]), (answer) => answer.join && join(taken, answer.beside) || search());
  }

  function join(taken, beside = true) {
    if (typed() === searched) clearBox();
    else pin();
    taken.forEach((part, i) => addPart(part, beside || i > 0));
    showParts();
    search();
    return true;
  }

  function replacement(there, part) {
    const both = { label: `Search with both ${there.name} and ${part.name}`, join: true, beside: true };
    return {
      title: `The query already contains ${there.name}`,
      detail: `What do you want to do with ${part.name}?`,
      answers: [{ label: `Search with ${part.name} instead`, join: true, beside: false }, ...(mayRepeat(part) ? [both] : []), { label: `Keep ${there.name}` }],
    };
  }

  $("box").addEventListener("input", showGuess);
  $("kind").addEventListener("change", () => {
    chosen = true;
    if (typed() && typed() === searched) submit();
  });
  const combine = () => {
    if (isAmbiguous(combine)) return;
    pin();
    $("box").focus();
  };
  $("add").addEventListener("click", combine);
  $("query").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("pick").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    takeFiles([...$("file").files]);
    $("file").value = "";
  });

  return {
    takeFiles,
    /** The query, filter and k of the form. */
    read: () => ({
      parts: [...parts, ...(typed() ? [boxPart()] : [])],
      filter: $("filter").value.trim(),
      k: Number($("k").value || DEFAULT_K),
    }),
    /** Show a state: a single typed part goes into the box, anything else becomes parts. */
    write({ parts: given, filter, k }) {
      const typedOnly = given.length === 1 && !isFile(given[0]);
      parts = typedOnly ? [] : given;
      $("box").value = searched = typedOnly ? given[0].value : "";
      if (typedOnly) $("kind").value = given[0].kind;
      chosen = typedOnly && given[0].kind !== guess(given[0].value);
      showGuess();
      showParts();
      $("filter").value = filter;
      $("k").value = k;
    },
    /** Set the wavelength of the pattern in the query and search again. */
    setWavelength(wavelength) {
      const part = parts.find(takesWavelength);
      if (part) changed(part, { wavelength, kind: measuredKind(part) });
    },
  };
}

/** Fill in the kinds of text and files that the service accepts. */
export function showKinds() {
  $("kind").replaceChildren(...typedKinds().map(([value, { label }]) => el("option", { value }, label)));
  const files = Object.values(KINDS).map((kind) => kind.files).filter(Boolean);
  const hints = files.flatMap(({ hint }) => hint.split(/, (?![^(]*\))/));
  if (hints.length) $("taken").replaceChildren(hints.length > 1 ? `${hints.slice(0, -1).join(", ")} or ${hints.at(-1)}` : hints[0]);
  const offered = $("file").getAttribute("accept").split(",");
  $("file").setAttribute("accept", [...new Set([...files.flatMap(({ suffixes }) => suffixes), ...offered])].join(","));
}

/** Help for the filter: its fields, each with a button that inserts it. */
export function showFields(fields) {
  const insert = (name) => {
    const filter = $("filter");
    filter.value = filter.value.trim() ? `${filter.value.trim()} AND ${name}` : name;
    filter.focus();
  };
  const example = 'elements HAS ALL "Li","O" AND NOT elements HAS "Co" AND nsites<20';
  $("fields").replaceChildren(
    el("p", null, "The OPTIMADE language: comparisons, HAS, HAS ALL, HAS ANY, AND, OR, NOT. For example ", el("code", null, example)),
    el("table", null, el("tbody", null, fields.map((field) => el("tr", null,
      el("td", null, el("button", { type: "button", class: "link", onclick: () => insert(field.name) }, el("code", null, field.name))),
      el("td", null, field.label, field.unit && !field.label.includes(`(${field.unit})`) ? ` (${field.unit})` : ""),
      el("td", { class: "muted" }, field.type),
    )))),
  );
}

/** Example queries, each a button. */
export function showExamples(examples, run) {
  const button = ({ label, request }) => el("button", { type: "button", class: "example", onclick: () => run({
    parts: fromRequest(request, label), filter: request.filter ?? "", k: request.k ?? DEFAULT_K, open: null,
  }) }, label);
  $("examples").replaceChildren(...(examples.length ? [el("span", { class: "muted" }, "Try")] : []), ...examples.map(button));
}
