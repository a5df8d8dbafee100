// Draw a region, and read its figures: those of the virtual stain, and of the real one where there is one.

const ROWS = [
  ["positive_area_fraction", "positive area", (value) => `${(100 * value).toFixed(1)} %`],
  ["positive_fraction", "positive cells", (value) => `${(100 * value).toFixed(1)} %`],
  ["h_score", "H-score", (value) => value.toFixed(0)],
  ["cells", "nuclei", (value) => value.toFixed(0)],
  ["dab_mean", "DAB density, OD", (value) => value.toFixed(3)],
  ["area_mm2", "area, mm²", (value) => value.toFixed(4)],
];

export class Measure {
  constructor(scene, panes, images) {
    this.scene = scene; this.panes = panes; this.images = images; // images(): those to measure now
    this.kind = null; this.polygon = null; this.result = null;
    this.panel = document.getElementById("figures");
    this.body = document.getElementById("figures-body");
    document.getElementById("close-figures").onclick = () => this.cancel();
    document.getElementById("export-geojson").onclick = () => this.saveGeojson();
    document.getElementById("export-png").onclick = () => this.savePng();
    for (const pane of panes) this.listen(pane);
  }

  start(kind) {
    if (!this.images().length) return;
    this.kind = this.kind === kind ? null : kind;
    for (const pane of this.panes) pane.element.classList.toggle("drawing", this.kind !== null);
    for (const name of ["rectangle", "polygon"]) document.getElementById(name).setAttribute("aria-pressed", String(this.kind === name));
    this.corners = [];
  }

  cancel() {
    if (this.kind) this.start(this.kind);
    this.first = null; this.polygon = null; this.panel.hidden = true; this.show([]);
  }

  listen(pane) {
    const canvas = pane.marks.canvas;
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.kind) return;
      const point = at(event);
      if (this.kind === "rectangle") { canvas.setPointerCapture(event.pointerId); this.first = point; }
      else if (event.button === 0) { this.corners.push(pane.marks.toSlide(...point)); this.show(this.corners); }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.kind === "rectangle" && this.first) this.show(this.box(pane, this.first, at(event)));
      else if (this.kind === "polygon" && this.corners.length) this.show([...this.corners, pane.marks.toSlide(...at(event))]);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (this.kind !== "rectangle" || !this.first) return;
      const polygon = this.box(pane, this.first, at(event));
      this.first = null; this.start("rectangle"); this.ask(polygon);
    });
    canvas.addEventListener("dblclick", () => {
      if (this.kind !== "polygon") return;
      this.corners.pop(); // the second click of the two has added one
      this.close();
    });
  }

  /** The corners that were clicked are the polygon. */
  close() {
    if (this.kind !== "polygon") return;
    const polygon = this.corners;
    this.start("polygon");
    if (polygon.length > 2) this.ask(polygon); else this.show([]);
  }

  box(pane, [x, y], [u, v]) { return [[x, y], [u, y], [u, v], [x, v]].map((corner) => pane.marks.toSlide(...corner)); }

  show(polygon) { for (const pane of this.panes) { pane.shown.region = polygon; pane.marks.draw(); } }

  async ask(polygon) {
    this.polygon = polygon; this.result = null; this.show(polygon);
    this.panel.hidden = false; this.body.textContent = "Measuring; tiles that are missing are stained first …";
    try {
      const figures = await Promise.all(this.images().map(async (image) => [image, await post("measure", { image: image.id, polygon })]));
      if (this.polygon !== polygon) return;
      this.result = figures; this.fill(figures);
    } catch (error) {
      if (this.polygon === polygon) { this.body.innerHTML = '<p class="error"></p>'; this.body.firstChild.textContent = error.message; }
    }
  }

  fill(figures) {
    const table = document.createElement("table");
    const line = (cells, tag) => { const row = table.insertRow(); for (const text of cells) { const cell = document.createElement(tag); cell.textContent = text; row.append(cell); } };
    line(["", ...figures.map(([image]) => image.label)], "th");
    for (const [name, label, form] of ROWS) line([label, ...figures.map(([, result]) => (result.figures[name] === null ? "undefined" : form(result.figures[name])))], "td");
    this.body.replaceChildren(table);
    for (const note of new Set(figures.flatMap(([, result]) => result.notes))) { const text = document.createElement("p"); text.textContent = note; this.body.append(text); }
  }

  saveGeojson() {
    if (!this.polygon) return;
    const ring = [...this.polygon, this.polygon[0]].map(([x, y]) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10]);
    const measurements = Object.fromEntries((this.result || []).flatMap(([image, result]) => ROWS.map(([name, label]) => [`${image.label}: ${label}`, result.figures[name]]).filter(([, value]) => value !== null)));
    const feature = { type: "Feature", geometry: { type: "Polygon", coordinates: [ring] }, properties: { objectType: "annotation", name: "region", measurements } };
    save(new Blob([JSON.stringify({ type: "FeatureCollection", features: [feature] })], { type: "application/geo+json" }), "region.geojson");
  }

  async savePng() {
    if (!this.polygon) return;
    for (const image of this.images()) {
      const answer = await request("export", { image: image.id, polygon: this.polygon });
      save(await answer.blob(), `${image.id}.png`);
    }
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob); link.download = name; link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function request(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.text()) || `${path}: ${answer.status}`);
  return answer;
}

export const post = async (path, body) => (await request(path, body)).json();
