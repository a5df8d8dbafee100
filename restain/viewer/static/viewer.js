// The page of `restain view`: panes that move together, a curtain, overlays, figures of what is drawn.

import { bounds, Marks, outlinesOf } from "./marks.js";
import { Measure, post } from "./measure.js";
import { refresh, tileSource, wanted } from "./tiles.js";

const MOST_WANTED = 256; // tiles that are asked for at a time
const PALE = 0.3; // opacity of the H&E under a virtual stain that is not there yet

const $ = (name) => document.getElementById(name);
const scene = await (await fetch("scene.json")).json();
const W = scene.size[0];
const image = Object.fromEntries(scene.images.map((one) => [one.id, one]));
const virtual = scene.images.filter((one) => one.kind === "virtual");
const real = scene.images.find((one) => one.kind === "ihc");
const shown = { region: [] }; // overlays and the drawn region; the panes share it
const progress = {}; // by image: {phase, done, total, message, finished: Set, todo: Set}
const windowId = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

let model = virtual[0]?.id ?? null;
let curtain = 0; // 0: side by side; else the nth of curtains()
let divide = 0.5; // of the pane's width
let panes = [];
let measure = null;

document.title = `${scene.title} – restain`;
$("title").textContent = scene.title;
for (const one of virtual) {
  if (one.live) progress[one.id] = { phase: "waiting", done: 0, total: 0, message: "", finished: new Set(), todo: new Set() };
  $("model").append(new Option(one.label, one.id));
}
$("model").hidden = virtual.length === 0;
for (const name of ["curtain", "rectangle", "polygon"]) $(name).hidden = !virtual.length && !real; // nothing to compare or to measure

// ------------------------------------------------------------------------------------------------------------ panes

function makePane(name, layers) {
  const element = document.createElement("section");
  element.className = "pane";
  element.setAttribute("aria-label", name);
  element.innerHTML = '<div class="sight"></div><div class="name"><span></span> <small></small></div>';
  element.lastChild.firstChild.textContent = name;
  $("panes").append(element);
  const viewer = OpenSeadragon({
    element: element.firstChild, drawer: "canvas", showNavigationControl: false, animationTime: 0.4, maxZoomPixelRatio: 8,
    minZoomImageRatio: 0.5, visibilityRatio: 0.2, gestureSettingsMouse: { clickToZoom: false }, gestureSettingsTouch: { pinchRotate: true },
    imageSmoothingEnabled: true, timeout: 600000,
  });
  const pane = { name, element, viewer, layers, shown, top: layers.at(-1).id, cells: null, items: {}, ready: null };
  const opened = layers.map(({ id, opacity }) => new Promise((resolve, reject) => viewer.addTiledImage({
    tileSource: tileSource(image[id]), x: 0, y: 0, width: image[id].width_px / W, opacity,
    success: ({ item }) => { pane.items[id] = item; resolve(); }, error: reject,
  })));
  pane.ready = Promise.all(opened);
  pane.marks = new Marks(pane, scene);
  for (const event of ["zoom", "pan", "rotate"]) viewer.addHandler(event, () => follow(pane));
  viewer.addHandler("animation", () => { crop(); look(); });
  viewer.addHandler("update-viewport", crop);
  new OpenSeadragon.MouseTracker({ element: viewer.container, moveHandler: (event) => probe(pane, event.position) });
  return pane;
}

function build() {
  const place = panes[0] && { centre: panes[0].viewer.viewport.getCenter(), zoom: panes[0].viewer.viewport.getZoom() * panes[0].viewer.viewport.getContainerSize().x, turn: panes[0].viewer.viewport.getRotation() };
  for (const pane of panes) pane.viewer.destroy();
  $("panes").replaceChildren();
  if (curtain) {
    const [under, over] = curtains()[curtain - 1];
    panes = [makePane(`${image[under].label} | ${image[over].label}`, [{ id: under, opacity: 1 }, { id: over, opacity: 1 }])];
    addDivide(panes[0]);
  } else {
    panes = [makePane("H&E", [{ id: "he", opacity: 1 }])];
    if (model) panes.push(makePane(image[model].label, [{ id: "he", opacity: PALE }, { id: model, opacity: 1 }]));
    if (real) panes.push(makePane(real.label, [{ id: real.id, opacity: 1 }]));
  }
  measure = new Measure(scene, panes, () => [model && image[model], real].filter(Boolean));
  $("figures").hidden = true;
  Promise.all(panes.map((pane) => pane.ready)).then(() => {
    for (const { viewer } of panes) {
      if (place) { viewer.viewport.zoomTo(place.zoom / viewer.viewport.getContainerSize().x, null, true); viewer.viewport.panTo(place.centre, true); viewer.viewport.setRotation(place.turn, true); } else fit(viewer);
    }
    document.body.dataset.ready = "1";
    look(); notes();
  });
}

function fit(viewer) { viewer.viewport.fitBounds(new OpenSeadragon.Rect(0, 0, 1, scene.size[1] / W), true); }

let leading = false;
function follow(leader) {
  if (leading) return;
  leading = true;
  const { viewport } = leader.viewer;
  for (const { viewer } of panes) {
    if (viewer === leader.viewer || !viewer.viewport) continue;
    viewer.viewport.zoomTo(viewport.getZoom(), null, false);
    viewer.viewport.panTo(viewport.getCenter(), false);
    viewer.viewport.setRotation(viewport.getRotation(), false);
  }
  leading = false;
  look(); scaleBar();
}

// ---------------------------------------------------------------------------------------------------------- curtain

function addDivide(pane) {
  const handle = document.createElement("div");
  handle.className = "divide"; handle.tabIndex = 0;
  handle.setAttribute("role", "slider"); handle.setAttribute("aria-label", "Divide");
  pane.element.append(handle);
  pane.divide = handle;
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (step) { event.stopPropagation(); event.preventDefault(); moveDivide(divide + step); }
  });
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = pane.element.getBoundingClientRect();
    moveDivide((event.clientX - box.left) / box.width);
  });
  moveDivide(divide);
}

function moveDivide(share) {
  divide = Math.min(1, Math.max(0, share));
  if (!curtain) return;
  panes[0].divide.style.left = `${100 * divide}%`;
  panes[0].divide.setAttribute("aria-valuenow", Math.round(100 * divide));
  crop(); panes[0].viewer.forceRedraw();
}

/** In the curtain the upper image is seen to the right of the divide only, however the slide is turned. */
function crop() {
  if (!curtain || !panes.length) return;
  const [{ viewer, items, layers, element }] = panes, item = items[layers.at(-1).id];
  if (!item || !viewer.viewport) return;
  const { clientWidth: width, clientHeight: height } = element;
  const corners = [[divide * width, 0], [width, 0], [width, height], [divide * width, height]].map(([x, y]) => {
    const point = item.viewportToImageCoordinates(viewer.viewport.pointFromPixel(new OpenSeadragon.Point(x, y), true), true);
    return { x: point.x, y: point.y };
  });
  item.setCroppingPolygons([corners]);
}

// -------------------------------------------------------------------------------------------------- tiles on demand

let looking = null;
function look() {
  clearTimeout(looking);
  looking = setTimeout(() => {
    const viewport = panes[0]?.viewer.viewport;
    if (!viewport) return;
    if (shown.cells) showCells();
    if (!image[model]?.live) return;
    const bounds = viewport.getBoundsNoRotate(true);
    post("look", { window: windowId, image: model, tiles: wanted(image[model], viewport.getRotation() ? viewport.getBounds(true).getBoundingBox() : bounds, scene, MOST_WANTED) }).catch(() => {});
  }, 120);
}

function listen() {
  const events = new EventSource(`events?window=${windowId}`);
  events.onmessage = ({ data }) => {
    const news = JSON.parse(data), state = progress[news.image];
    if (!state) return;
    Object.assign(state, { phase: news.phase ?? state.phase, done: news.done ?? state.done, total: news.total ?? state.total, message: news.message ?? state.message });
    if (news.todo) state.todo = new Set(news.todo.map((place) => place.join("_")));
    for (const place of news.finished ?? []) state.finished.add(place.join("_"));
    if (news.finished?.length || news.phase === "ready") {
      const redraw = () => { for (const { viewer } of panes) viewer.forceRedraw(); };
      refresh(news.image, news.all ? null : news.finished ?? null, redraw);
      if (shown.tiles) for (const pane of panes) pane.marks.draw();
    }
    status();
    if (news.phase === "ready") look();
  };
  events.onerror = () => {
    $("state").classList.add("error");
    $("state").textContent = events.readyState === EventSource.CLOSED
      ? "Too many pages of this slide are open. Close one and reload."
      : "The server does not answer. Start restain view again and open the address that it prints; stained tiles are kept.";
  };
  events.onopen = () => { status(); look(); };
}

function status() {
  const state = progress[model];
  if (!state) { $("state").textContent = ""; return; }
  const words = { waiting: "waiting", statistics: "taking the statistics of the slide", ready: "", failed: "" }[state.phase];
  $("state").textContent = [words, state.message, state.total ? `${state.done} of ${state.total} tiles stained` : ""].filter(Boolean).join(" · ");
  $("state").classList.toggle("error", state.phase === "failed");
}

// --------------------------------------------------------------------------------------- scale bar, cursor, density

function scaleBar() {
  const viewport = panes[0]?.viewer.viewport;
  if (!viewport) return;
  const umPerPx = (scene.mpp * W) / (viewport.getZoom(true) * viewport.getContainerSize().x);
  const rough = 120 * umPerPx, power = 10 ** Math.floor(Math.log10(rough));
  const length = [5, 2, 1].map((step) => step * power).find((step) => step <= rough) ?? power;
  $("scale").firstChild.style.width = `${length / umPerPx}px`;
  $("scale").lastChild.textContent = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
}

let probing = null;
function probe(pane, position) {
  const [x, y] = pane.marks.toSlide(position.x, position.y);
  if (!Number.isFinite(x)) return;
  const place = `${(x * scene.mpp).toFixed(0)}, ${(y * scene.mpp).toFixed(0)} µm`;
  $("cursor").textContent = place;
  clearTimeout(probing);
  if (x < 0 || y < 0 || x >= W || y >= scene.size[1]) return;
  probing = setTimeout(async () => {
    const answer = await fetch(`probe?x=${x.toFixed(1)}&y=${y.toFixed(1)}`);
    if (!answer.ok) return;
    const densities = Object.entries(await answer.json()).filter(([id]) => id === model || id === real?.id);
    $("cursor").textContent = [place, ...densities.map(([id, value]) => `${image[id].label} DAB ${value === null ? "–" : value.toFixed(2)}`)].join(" · ");
  }, 150);
}

// --------------------------------------------------------------------------------------------------------- overlays

const LAYERS = { tissue: ["Tissue", "t"], trust: ["Trust", "g"], cells: ["Cells", "n"], tiles: ["Tiles", "x"] };

async function toggle(name) {
  const button = $(`layer-${name}`);
  if (!button || button.disabled) return;
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  if (!on) delete shown[name];
  else if (name === "tiles" && !progress[model]) return;
  else if (name === "tiles") shown.tiles = { image: image[model], finished: progress[model].finished, todo: progress[model].todo };
  else if (name === "trust") showTrust();
  else if (name === "cells") { shown.cells = true; await showCells(); }
  else {
    const answer = await fetch(`overlays/${name}`);
    if (answer.ok) shown[name] = outlinesOf(await answer.json());
    else { button.setAttribute("aria-pressed", "false"); $("state").textContent = await answer.text(); }
  }
  for (const pane of panes) pane.marks.draw();
  notes();
}

/** The map of the model that is chosen; it may have none. */
function showTrust() {
  const picture = new Image(), of = image[model];
  shown.trust = { image: null, px: of.width_px / of.size[0], missing: false };
  const mine = shown.trust;
  picture.onload = () => { mine.image = picture; for (const pane of panes) pane.marks.draw(); };
  picture.onerror = () => { mine.missing = true; notes(); };
  picture.src = `overlays/trust?image=${model}`;
}

/** The cells in sight, each image's over its own pane. */
async function showCells() {
  await Promise.all(panes.map(async (pane) => {
    const id = scene.cells.includes(pane.top) ? pane.top : scene.cells.includes("") ? "" : null;
    if (id === null) return;
    const { viewport } = pane.viewer, { x, y } = viewport.getContainerSize();
    const corners = [[0, 0], [x, 0], [x, y], [0, y]].map((corner) => pane.marks.toSlide(...corner));
    const xs = corners.map((corner) => corner[0]), ys = corners.map((corner) => corner[1]);
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)].map((value) => value.toFixed(1));
    const answer = await fetch(`cells?image=${id}&box=${box}`);
    pane.cells = answer.ok ? await answer.json() : { count: 0, outlines: [], error: await answer.text() };
    pane.cells.outlines = pane.cells.outlines.map(({ ring, colour }) => ({ rings: [ring], box: bounds(ring), colour: `rgb(${colour})` }));
    pane.marks.draw();
  }));
  notes();
}

/** What a pane's overlays mean, beside its name. */
function notes() {
  for (const pane of panes) {
    const words = [], cells = shown.cells && pane.cells;
    if (shown.trust && pane.top === model) words.push(shown.trust.missing ? "no trust map; make one with restain stain-slides --trust" : "trust: bright where the stain depends on orientation, cyan where the H&E is unlike the training");
    if (cells) words.push(cells.error || (cells.outlines.length || !cells.count ? `${cells.count} cells` : `${cells.count.toLocaleString("en")} cells; zoom in to see them`));
    pane.element.querySelector(".name small").textContent = words.join(" · ");
  }
}

for (const [name, [label, key]] of Object.entries(LAYERS)) {
  if (!{ tiles: virtual.some((one) => one.live), cells: scene.cells.length }[name] && !scene.overlays.includes(name)) continue;
  const button = document.createElement("button");
  button.id = `layer-${name}`; button.textContent = label; button.title = `${label} (${key.toUpperCase()})`;
  button.setAttribute("aria-pressed", "false");
  button.onclick = () => toggle(name);
  $("layers").append(button, " ");
}

// --------------------------------------------------------------------------------------------------------- controls

function chooseModel(id) {
  if (!id || id === model) return;
  model = id; $("model").value = id; delete shown.tiles;
  $("layer-tiles")?.setAttribute("aria-pressed", "false");
  if (shown.trust) showTrust();
  build(); status();
}

/** Pairs of images that a curtain can show, the left one first. */
function curtains() {
  return [["he", model], [model, real?.id], ["he", real?.id]].filter(([left, right]) => left && right);
}

function nextCurtain() {
  curtain = (curtain + 1) % (curtains().length + 1);
  $("curtain").setAttribute("aria-pressed", String(curtain > 0));
  build();
}

function turn(degrees) {
  const { viewport } = panes[0].viewer;
  viewport.setRotation(viewport.getRotation() + degrees);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("restain-theme", theme);
}

function visibleRegion() {
  if (!model && !real) return;
  const { viewport } = panes[0].viewer, { x, y } = viewport.getContainerSize();
  measure.ask([[0, 0], [x, 0], [x, y], [0, y]].map(([u, v]) => panes[0].marks.toSlide(u, v)));
}

$("model").onchange = ({ target }) => chooseModel(target.value);
$("curtain").onclick = nextCurtain;
$("turn").onclick = () => turn(90);
$("home").onclick = () => { for (const { viewer } of panes) fit(viewer); };
$("rectangle").onclick = () => measure.start("rectangle");
$("polygon").onclick = () => measure.start("polygon");
$("help").onclick = () => $("keys").showModal();
$("theme").onclick = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

const KEYS = {
  c: nextCurtain, r: () => turn(90), R: () => turn(-90), f: () => $("home").click(),
  m: () => $("rectangle").click(), p: () => $("polygon").click(), v: visibleRegion, Enter: () => measure.close(), "?": () => $("keys").showModal(),
  l: () => $("theme").click(), Escape: () => measure.cancel(), "[": () => moveDivide(divide - 0.02), "]": () => moveDivide(divide + 0.02),
  "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3),
  ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
  a: () => move(-1, 0), d: () => move(1, 0), w: () => move(0, -1), s: () => move(0, 1),
};
for (const [name, [, key]] of Object.entries(LAYERS)) KEYS[key] = () => toggle(name);

function zoom(factor) { panes[0].viewer.viewport.zoomBy(factor); }
function move(x, y) {
  const { viewport } = panes[0].viewer, step = viewport.getBounds().width / 8;
  viewport.panBy(new OpenSeadragon.Point(x * step, y * step).rotate(-viewport.getRotation()));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, dialog[open]")) return;
  if ((event.key === "Enter" && event.target.closest("button")) || (event.key.startsWith("Arrow") && event.target.closest(".divide"))) return;
  const nth = Number(event.key);
  const act = nth >= 1 && nth <= 9 ? () => chooseModel(virtual[nth - 1]?.id) : KEYS[event.key];
  if (!act) return;
  event.preventDefault(); event.stopPropagation(); act();
}, true);
window.addEventListener("resize", () => { scaleBar(); crop(); });

setTheme(localStorage.getItem("restain-theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
build();
if (virtual.some((one) => one.live)) listen();
setInterval(scaleBar, 500);
window.restain = { scene, progress, panes: () => panes, curtain: () => divide }; // for tests and for the console
