// 3-D view of a crystal with 3Dmol: atoms with their periodic images on the cell faces, the cell, and its axes.

import { el } from "./dom.js";

const LARGEST = 3000;
const BORDER = 54;
const NONMETALS = new Set("H B C N O F Si P S Cl Ge As Se Br Sb Te I".split(" "));
let library = null;

/** Load 3Dmol (0.5 MB) when the first structure is shown. */
function load() {
  library ??= new Promise((resolve, reject) => {
    const script = el("script", {
      src: "/assets/3Dmol-min.js",
      onload: () => resolve(globalThis.$3Dmol),
      onerror: () => reject(new Error("the 3-D viewer could not be loaded")),
    });
    document.head.append(script);
  });
  return library;
}

/** Integer shifts that move a fractional coordinate into [0, n], both ends included. */
function shifts(fraction, n) {
  const start = fraction - Math.floor(fraction + 1e-4);
  const all = [];
  for (let value = start; value <= n + 1e-3; value += 1) all.push(value);
  return all;
}

const transform = (m, [a, b, c]) => [0, 1, 2].map((i) => m[i] * a + m[i + 3] * b + m[i + 6] * c);

/** Atoms of an n × n × n block of cells, from the symmetry-expanded atoms of one. */
function block(atoms, crystal, n) {
  const { elements } = crystal.matrix;
  const inverse = new globalThis.$3Dmol.Matrix3().getInverse3(crystal.matrix).elements;
  const seen = new Set();
  const images = [];
  for (const { elem, x, y, z } of atoms) {
    const [fa, fb, fc] = transform(inverse, [x, y, z]).map((fraction) => shifts(fraction, n));
    for (const a of fa) for (const b of fb) for (const c of fc) {
      const key = `${elem} ${a.toFixed(3)} ${b.toFixed(3)} ${c.toFixed(3)}`;
      if (seen.has(key)) continue;
      seen.add(key);
      const [cx, cy, cz] = transform(elements, [a, b, c]);
      images.push({ elem, x: cx, y: cy, z: cz, bonds: [], bondOrder: [], properties: {} });
    }
  }
  return images;
}

/** Bonds by distance, except between two atoms of the same metal in a compound, which are contacts and not bonds. */
function bond(model) {
  model.assignBonds();
  const atoms = model.selectedAtoms({});
  if (new Set(atoms.map((atom) => atom.elem)).size < 2) return;
  for (const atom of atoms) {
    const isBond = atom.bonds.map((other) => NONMETALS.has(atom.elem) || atoms[other]?.elem !== atom.elem);
    for (const list of ["bonds", "bondOrder"]) atom[list] = atom[list].filter((_, i) => isBond[i]);
  }
}

/** Draw the edges and axes of the block. Returns its corners. */
function cell(viewer, crystal, n, ink) {
  const { elements } = crystal.matrix;
  const corner = (a, b, c) => {
    const [x, y, z] = transform(elements, [a, b, c]);
    return { x, y, z };
  };
  const edge = (start, end) => viewer.addCylinder({ start, end, radius: 0.03, color: ink, fromCap: 1, toCap: 1 });
  for (const u of [0, 1]) for (const v of [0, 1]) {
    edge(corner(0, u * n, v * n), corner(n, u * n, v * n));
    edge(corner(u * n, 0, v * n), corner(u * n, n, v * n));
    edge(corner(u * n, v * n, 0), corner(u * n, v * n, n));
  }
  [["a", [1, 0, 0]], ["b", [0, 1, 0]], ["c", [0, 0, 1]]].forEach(([name, direction]) => {
    const end = transform(elements, direction);
    const reach = n + 1.2 / Math.hypot(...end);
    const position = corner(...direction.map((d) => d * reach));
    viewer.addLabel(name, { position, fontColor: ink, showBackground: false, font: "sans-serif", fontSize: 15, bold: true, alignment: "center", inFront: true });
  });
  return [0, 1].flatMap((a) => [0, 1].flatMap((b) => [0, 1].map((c) => corner(a * n, b * n, c * n))));
}

/** Zoom so that atoms and cell fill the view at any aspect ratio. */
function fit(viewer, host, positions) {
  const points = viewer.modelToScreen(positions.map(({ x, y, z }) => ({ x, y, z })));
  const extent = (axis) => Math.max(...points.map((p) => p[axis])) - Math.min(...points.map((p) => p[axis]));
  const room = (size, wide) => (size - 2 * BORDER) / Math.max(wide, 1);
  viewer.zoom(Math.min(room(host.clientWidth, extent("x")), room(host.clientHeight, extent("y")), 6));
}

function legend(atoms, colours) {
  const symbols = [...new Set(atoms.map((atom) => atom.elem))];
  return symbols.map((symbol) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.backgroundColor = `#${(colours[symbol] ?? 0xff1493).toString(16).padStart(6, "0")}`;
    return el("span", { class: "key" }, swatch, symbol);
  });
}

/** Draw a CIF into `host`. Returns an element with the controls and the legend. */
export async function showStructure(host, cif) {
  const $3Dmol = await load();
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--muted").trim();
  const viewer = $3Dmol.createViewer(host, { backgroundColor: "white", backgroundAlpha: 0, antialias: true, orthographic: true });
  if (!viewer) throw new Error("this browser offers no WebGL");
  const options = { doAssembly: true, duplicateAssemblyAtoms: true, normalizeAssembly: true, assignBonds: false };
  const parsed = viewer.addModel(cif, "cif", options);
  const crystal = parsed.getCrystData();
  const unit = parsed.selectedAtoms({});
  if (!crystal || !unit.length) throw new Error("the CIF holds no atoms that the viewer understands");
  const colours = $3Dmol.elementColors.Jmol;

  const draw = (n) => {
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    const model = viewer.addModel();
    model.addAtoms(block(unit, crystal, n));
    bond(model);
    model.setStyle({}, { sphere: { scale: 0.25, colorscheme: "Jmol" }, stick: { radius: 0.1, colorscheme: "Jmol" } });
    const corners = cell(viewer, crystal, n, ink);
    viewer.zoomTo();
    fit(viewer, host, [...model.selectedAtoms({}), ...corners]);
    viewer.render();
  };
  viewer.rotate(-90, "x"); // c upwards, seen from the side and slightly above
  viewer.rotate(-28, "vy");
  viewer.rotate(12, "vx");
  draw(1);
  new ResizeObserver(() => host.isConnected && viewer.resize()).observe(host);
  return el("div", { class: "controls" }, el("span", { class: "legend" }, legend(unit, colours)), ...controls(viewer, draw, unit.length));
}

function controls(viewer, draw, size) {
  const spin = el("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "Spin");
  spin.addEventListener("click", () => {
    const on = spin.getAttribute("aria-pressed") !== "true";
    spin.setAttribute("aria-pressed", String(on));
    viewer.spin(on ? "y" : false, 0.6);
  });
  const double = el("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "2 × 2 × 2");
  double.disabled = size * 8 > LARGEST;
  double.addEventListener("click", () => {
    const on = double.getAttribute("aria-pressed") !== "true";
    double.setAttribute("aria-pressed", String(on));
    draw(on ? 2 : 1);
  });
  return [double, spin];
}
