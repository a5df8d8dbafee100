// What is drawn over the panes: overlays, the state of live tiles, the region that is being measured.

const COLOURS = { tissue: "#964ba0", cells: "#d62a2d", region: "#6a3ea1" };

export class Marks {
  constructor(pane, scene) {
    this.pane = pane; this.scene = scene;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "marks";
    pane.element.append(this.canvas);
    for (const event of ["update-viewport", "resize", "open"]) pane.viewer.addHandler(event, () => this.draw());
  }

  /** From px of the H&E's first level to px of the pane. */
  toScreen([x, y]) {
    const point = this.pane.viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(x / this.scene.size[0], y / this.scene.size[0]), true);
    return [point.x, point.y];
  }

  toSlide(x, y) {
    const point = this.pane.viewer.viewport.pointFromPixel(new OpenSeadragon.Point(x, y), true);
    return [point.x * this.scene.size[0], point.y * this.scene.size[0]];
  }

  draw() {
    const { canvas } = this, ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!this.pane.viewer.viewport) return;
    const shown = this.pane.shown;
    if (shown.trust?.image) this.blocks(pen, shown.trust);
    if (shown.tissue) this.outlines(pen, shown.tissue, COLOURS.tissue, width, height);
    if (shown.cells && this.pane.cells) this.outlines(pen, this.pane.cells.outlines, COLOURS.cells, width, height);
    if (shown.tiles) this.tileState(pen, width, height);
    if (shown.region) this.region(pen, shown.region);
  }

  outlines(pen, features, colour, width, height) {
    pen.lineWidth = 1.5;
    for (const feature of features) {
      const corners = [[feature.box[0], feature.box[1]], [feature.box[2], feature.box[1]], [feature.box[2], feature.box[3]], [feature.box[0], feature.box[3]]].map((corner) => this.toScreen(corner));
      const xs = corners.map((corner) => corner[0]), ys = corners.map((corner) => corner[1]);
      if (Math.max(...xs) < 0 || Math.max(...ys) < 0 || Math.min(...xs) > width || Math.min(...ys) > height) continue;
      pen.strokeStyle = feature.colour || colour;
      for (const ring of feature.rings) { this.path(pen, ring); pen.closePath(); pen.stroke(); }
    }
  }

  path(pen, ring) {
    pen.beginPath();
    ring.forEach((point, index) => { const [x, y] = this.toScreen(point); index ? pen.lineTo(x, y) : pen.moveTo(x, y); });
  }

  /** A map of trust: 4 px for each block of 64 px of the virtual stain, of which one px is `px` wide. */
  blocks(pen, { image, px }) {
    const width = (image.width / 4) * 64 * px, height = (image.height / 4) * 64 * px;
    const origin = this.toScreen([0, 0]), right = this.toScreen([width, 0]), below = this.toScreen([0, height]);
    pen.save();
    pen.globalAlpha = 0.55;
    pen.transform((right[0] - origin[0]) / image.width, (right[1] - origin[1]) / image.width, (below[0] - origin[0]) / image.height, (below[1] - origin[1]) / image.height, origin[0], origin[1]);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image, 0, 0);
    pen.restore();
  }

  tileState(pen, width, height) {
    const { image, finished, todo } = this.pane.shown.tiles;
    const px = (image.width_px / image.size[0]) * image.tile_px;
    for (const [set, colour] of [[todo, "#8883"], [finished, "#2a9d5c44"]]) {
      pen.fillStyle = colour;
      for (const place of set) {
        const [row, column] = place.split("_").map(Number);
        const [x, y] = this.toScreen([column * px, row * px]), [u, v] = this.toScreen([(column + 1) * px, (row + 1) * px]);
        if (Math.max(x, u) < 0 || Math.max(y, v) < 0 || Math.min(x, u) > width || Math.min(y, v) > height) continue;
        this.path(pen, [[column * px, row * px], [(column + 1) * px, row * px], [(column + 1) * px, (row + 1) * px], [column * px, (row + 1) * px]]);
        pen.fill();
      }
    }
  }

  region(pen, polygon) {
    if (!polygon.length) return;
    this.path(pen, polygon);
    if (polygon.length > 2) pen.closePath();
    pen.fillStyle = "#6a3ea122"; pen.fill();
    pen.lineWidth = 2; pen.strokeStyle = COLOURS.region; pen.stroke();
  }
}

/** GeoJSON features as rings with their bounds, ready to be drawn. */
export function outlinesOf(collection) {
  return collection.features.filter((feature) => feature.geometry?.type === "Polygon").map((feature) => {
    const rings = feature.geometry.coordinates;
    return { rings, box: bounds(rings[0]) };
  });
}

/** Left, top, right and bottom of a ring. */
export function bounds(ring) {
  const xs = ring.map((point) => point[0]), ys = ring.map((point) => point[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}
