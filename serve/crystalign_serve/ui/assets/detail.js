// Detail view of one material: structure, lattice, curves overlaid on the query's, properties and provenance.

import * as api from "./api.js";
import { el, formula, quantity, spaceGroup } from "./dom.js";
import { plot } from "./plot.js";
import { PLOTS } from "./query.js";
import { hypothetical, properties, remarks } from "./results.js";
import { showStructure } from "./structure.js";

function lattice(cell, sites) {
  const length = (value) => [`${Number(value).toFixed(3)}`, el("small", null, "\u202fÅ")];
  const angle = (value) => [`${Number(value).toFixed(2)}`, el("small", null, "°")];
  const entries = [["a", length(cell.a)], ["b", length(cell.b)], ["c", length(cell.c)],
    ["α", angle(cell.alpha)], ["β", angle(cell.beta)], ["γ", angle(cell.gamma)],
    ["Volume", [quantity(cell.volume), el("small", null, "\u202fÅ³")]], ["Sites", [quantity(sites)]]];
  return el("dl", { class: "properties lattice" }, entries.map(([name, value]) => el("div", { class: "property" }, el("dt", null, name), el("dd", null, value))));
}

function provenance(entries) {
  const withValue = Object.entries(entries ?? {}).filter(([, value]) => value !== null && value !== "");
  return el("dl", { class: "provenance" }, withValue.map(([key, value]) => [el("dt", null, key), el("dd", null, String(value))]));
}

const section = (title, ...children) => el("section", null, el("h3", null, title), ...children);
const problem = (error) => el("p", { class: "muted" }, error instanceof api.ApiError ? `${error.title}. ${error.detail}` : error.message);

function download(id) {
  const link = el("a", { class: "quiet button", href: api.cifPath(id), download: `${id.replace(/[^\w.-]+/g, "_")}.cif` }, "Download CIF");
  const failed = el("span", { role: "alert" });
  link.addEventListener("click", async (event) => {
    failed.replaceChildren();
    await api.downloadWithKey(event, id, link.download).catch((error) => failed.replaceChildren(error.message));
  });
  return [link, failed];
}

async function drawStructure(host, id, signal) {
  const stage = el("div", { class: "stage", role: "img", "aria-label": `Crystal structure of ${id} in 3-D` });
  host.replaceChildren(stage);
  try {
    const text = await api.cif(id, signal);
    const controls = await showStructure(stage, text);
    if (!signal.aborted) host.append(controls);
  } catch (error) {
    if (!signal.aborted) host.replaceChildren(el("p", { class: "stage muted" }, `No 3-D view: ${error.message}.`));
  }
}

/** λ (Å) from the axis label of the query's pattern; the material's pattern is drawn at the same wavelength. */
const measuredAt = (curve) => /λ = ([\d.]+)/.exec(curve?.x_label ?? "")?.[1];

/** Both curves in one figure, or in two if their x axes differ. */
function overlay(material, ofQuery) {
  if (material.x_label === ofQuery.x_label) return [[material, ofQuery]];
  const axis = PLOTS[material.kind]?.zero_axis;
  if (!axis) return [[material], [ofQuery]];
  const fromZero = (curve) => ({ ...curve, name: `${curve.name}, from ${/E_\w+/.exec(curve.x_label)?.[0] ?? "its zero"}`, x_label: axis });
  return [[fromZero(material), fromZero(ofQuery)]];
}

async function drawCurve(host, id, kind, { query, wavelength }, signal) {
  const { title } = PLOTS[kind];
  try {
    const material = { ...(await api.curve(id, kind, measuredAt(query) ?? wavelength, signal)), kind, name: id, role: "match" };
    const ofQuery = query?.kind === kind ? { ...query, name: "query", role: "asked" } : null;
    const figures = ofQuery ? overlay(material, ofQuery) : [[material]];
    host.replaceChildren(...figures.map((curves) => plot(curves, { title: `${title} of ${id}` })));
  } catch (error) {
    if (!signal.aborted) host.replaceChildren(problem(error));
  }
}

function curves(data, context, signal) {
  const kinds = Object.keys(PLOTS).filter((kind) => data.modalities?.includes(kind));
  kinds.sort((a, b) => (b === context.query?.kind) - (a === context.query?.kind));
  const missing = context.query && !kinds.includes(context.query.kind)
    ? section(PLOTS[context.query.kind]?.title ?? "Query", plot([{ ...context.query, name: "query", role: "asked" }], { title: "The query" }),
      el("p", { class: "muted" }, "This material has no such curve to compare with the query."))
    : null;
  return [missing, ...kinds.map((kind) => {
    const host = el("div", { class: "plots" }, el("p", { class: "muted" }, "Loading…"));
    drawCurve(host, data.id, kind, context, signal);
    return section(PLOTS[kind].title, host);
  })];
}

function prediction({ label, unit, value, lower, upper, level, out_of_domain: distance, model }) {
  const name = unit ? label.replace(` (${unit})`, "") : label;
  const hasInterval = lower !== null && upper !== null;
  const interval = hasInterval ? el("small", { class: "interval" }, `${quantity(lower)} … ${quantity(upper)}`) : null;
  const far = distance !== null && distance > 1;
  const title = `By the model ${model}.${hasInterval ? ` The interval contains the value with ${100 * level} % probability.` : ""}${far ? " This material is unlike the training data: the prediction is unreliable." : ""}`;
  return el("div", { class: far ? "property far" : "property", title },
    el("dt", null, name, far ? el("span", { class: "warning" }, " unlike the training data") : null),
    el("dd", null, quantity(value), el("small", null, unit ? `\u202f${unit}` : ""), interval));
}

async function drawPredictions(host, id, signal) {
  try {
    const { predictions, problems } = await api.predictions(id, signal);
    host.replaceChildren(el("dl", { class: "properties" }, predictions.map(prediction)), ...problems.map((why) => el("p", { class: "muted" }, why)));
  } catch (error) {
    if (!signal.aborted) host.replaceChildren(problem(error));
  }
}

function stored({ predictions }) {
  return predictions?.length ? [section("Predicted, stored with the index", el("dl", { class: "properties" }, predictions.map(prediction)))] : [];
}

function predicted(data, signal) {
  if (!data.predicted_by?.length) return [];
  const host = el("div", { class: "predicted" }, el("p", { class: "muted" }, "Loading…"));
  drawPredictions(host, data.id, signal);
  return [section("Predicted, with 90 % intervals", host)];
}

/**
 * Fill `host` with material `id`. `context` holds the query's curve and wavelength; handlers hold onSimilar and onClose.
 */
export async function showDetail(host, id, context, { onSimilar, onClose }, signal) {
  const close = el("button", { type: "button", class: "quiet close", onclick: onClose, "aria-label": "Close this material" }, "×");
  host.replaceChildren(el("header", null, el("h2", null, id), close), el("p", { class: "muted" }, "Loading…"));
  host.hidden = false;
  let data;
  try {
    data = await api.describe(id, signal);
  } catch (error) {
    if (!signal.aborted) host.replaceChildren(el("header", null, el("h2", null, id), close), problem(error));
    return;
  }
  const similar = el("button", { type: "button", class: "quiet", onclick: () => onSimilar(data) }, "Find similar");
  const structure = el("div", { class: "structure" });
  const table = properties(data.properties);
  host.replaceChildren(
    el("header", null, el("h2", null, formula(data.formula)), close),
    el("p", { class: "facts" }, spaceGroup(data.spacegroup_symbol, data.spacegroup_number), el("span", { class: "id" }, data.id), hypothetical(data)),
    ...[remarks(data)].filter(Boolean),
    el("div", { class: "overview" },
      el("div", null, structure, el("p", { class: "actions" }, similar, ...download(data.id))),
      el("div", null, section("Lattice", lattice(data.lattice, data.n_sites)), ...(table ? [section("Properties", table)] : []), ...stored(data), ...predicted(data, signal)),
    ),
    ...curves(data, context, signal).filter(Boolean),
    ...(data.text ? [section("Description", el("p", { class: "prose" }, data.text))] : []),
    section("Provenance", provenance(data.provenance)),
  );
  await drawStructure(structure, data.id, signal);
}
