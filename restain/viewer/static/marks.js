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
    if (shown.trust && shown.trust.image) this.picture(pen, shown.trust.image);
    for (const kind of ["tissue", "cells"]) if (shown[kind]) this.outlines(pen, shown[kind], COLOURS[kind], width, height);
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

  picture(pen, image) {
    const origin = this.toScreen([0, 0]), right = this.toScreen([this.scene.size[0], 0]), below = this.toScreen([0, this.scene.size[1]]);
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
    const rings = feature.geometry.coordinates, outer = rings[0];
    const xs = outer.map((point) => point[0]), ys = outer.map((point) => point[1]);
    const colour = feature.properties?.classification?.color;
    return { rings, box: [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)], colour: colour && `rgb(${colour.join(",")})` };
  });
}
