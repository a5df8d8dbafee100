// Where the pixels come from: plain tiles, and live tiles that the server stains while one looks.

const live = new Map(); // "image/level/column_row" -> {context, image, level, column, row, whole}

/** An OpenSeadragon tile source for one image of the scene. Levels run from 0, the smallest. */
export function tileSource(image) {
  const deepest = image.levels.length - 1;
  const source = {
    width: image.size[0], height: image.size[1], tileSize: image.tile_px, minLevel: 0, maxLevel: deepest,
    getTileUrl: (level, x, y) => `tiles/${image.id}/${deepest - level}/${x}_${y}`,
    getNumTiles(level) {
      const [width, height] = image.levels[deepest - level];
      return new OpenSeadragon.Point(Math.ceil(width / image.tile_px), Math.ceil(height / image.tile_px));
    },
    getLevelScale: (level) => 1 / 2 ** (deepest - level),
    hasTransparency: () => image.live,
  };
  if (!image.live) return source;
  source.downloadTileStart = (job) => {
    const { level, x, y } = job.tile;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = image.tile_px;
    const tile = { context: canvas.getContext("2d"), image: image.id, level: deepest - level, column: x, row: y, whole: false };
    job.userData.abort = new AbortController();
    draw(tile, job.userData.abort.signal).then(
      (size) => {
        canvas.width = size[0]; canvas.height = size[1]; // a border tile is smaller
        tile.context.drawImage(size.bitmap, 0, 0);
        live.set(key(tile), tile);
        job.finish(tile.context, null, "context2d");
      },
      (error) => job.fail(String(error), null),
    );
  };
  source.downloadTileAbort = (job) => job.userData.abort?.abort();
  return source;
}

const key = (tile) => `${tile.image}/${tile.level}/${tile.column}_${tile.row}`;

async function draw(tile, signal) {
  const answer = await fetch(`tiles/${key(tile)}`, { signal });
  if (!answer.ok) throw new Error(`tile ${key(tile)}: ${answer.status}`);
  tile.whole = answer.headers.get("X-Whole") === "1";
  const bitmap = await createImageBitmap(await answer.blob());
  return Object.assign([bitmap.width, bitmap.height], { bitmap });
}

/** Draw those tiles again that show one of the finished tiles, given as [row, column] of the full size. */
export async function refresh(image, finished, redraw) {
  const touched = new Set();
  for (const tile of live.values()) {
    if (tile.image !== image || tile.whole) continue;
    if (tile.context.canvas.width === 0) { live.delete(key(tile)); continue; } // OpenSeadragon has let go of it
    if (finished === null || finished.some(([row, column]) => row >> tile.level === tile.row && column >> tile.level === tile.column)) touched.add(tile);
  }
  await Promise.allSettled([...touched].map(async (tile) => {
    const { bitmap } = await draw(tile);
    if (tile.context.canvas.width === 0) return;
    tile.context.clearRect(0, 0, bitmap.width, bitmap.height);
    tile.context.drawImage(bitmap, 0, 0);
  }));
  if (touched.size) redraw();
}

/** Tiles of the full size in the window's view, nearest to its middle first: [[row, column], ...]. */
export function wanted(image, bounds, scene, most) {
  const px = (image.size[0] / image.width_px) * scene.size[0]; // px of the image per unit of the view
  const clampTo = (value, count) => Math.min(Math.max(value, 0), count - 1);
  const side = image.tile_px;
  const columns = Math.ceil(image.size[0] / side), rows = Math.ceil(image.size[1] / side);
  const [left, top, right, bottom] = [bounds.x, bounds.y, bounds.x + bounds.width, bounds.y + bounds.height].map((value) => Math.floor((value * px) / side));
  if (right < 0 || bottom < 0 || left >= columns || top >= rows) return [];
  const middle = [(top + bottom) / 2, (left + right) / 2];
  const tiles = [];
  for (let row = clampTo(top, rows); row <= clampTo(bottom, rows); row++)
    for (let column = clampTo(left, columns); column <= clampTo(right, columns); column++) tiles.push([row, column]);
  const away = ([row, column]) => (row - middle[0]) ** 2 + (column - middle[1]) ** 2;
  return tiles.sort((a, b) => away(a) - away(b)).slice(0, most);
}
