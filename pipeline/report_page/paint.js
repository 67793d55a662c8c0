/* Draw an item: an image, with a layer of labels over it on either side of a split. */

const LAYER_LABELS = { coarse: "Coarse", auto: "Auto", merged: "Merged", truth: "Truth" };

const DIFFERENCES = [
  { id: "auto-coarse", label: "Auto ≠ coarse", of: ["auto", "coarse"] },
  { id: "auto-truth", label: "Auto ≠ truth", of: ["auto", "truth"] },
  { id: "merged-truth", label: "Merged ≠ truth", of: ["merged", "truth"] },
];

const layers = [
  { id: "image", label: "Image", of: [] },
  ...summary.layers.map((id) => ({ id, label: LAYER_LABELS[id], of: [id] })),
  ...DIFFERENCES.filter(({ of }) => of.every((id) => summary.layers.includes(id))),
];

const layerNamed = (id) => layers.find((layer) => layer.id === id);
const hasLayer = (thumb, id) => layerNamed(id).of.every((map) => thumb.maps[map]);

/* 32-bit colours as a little-endian machine lays them out, which all that run a browser are. */
const rgba = (red, green, blue, alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const VEIL = rgba(18, 18, 24, 200);
const DIFFERENT = rgba(230, 40, 120, 255);
const HATCH_DARK = rgba(20, 20, 26, 190);
const HATCH_LIGHT = rgba(250, 250, 250, 110);

function classTable() {
  const table = new Uint32Array(256).fill(rgba(128, 128, 128, 255));
  summary.classes.forEach((_, index) => {
    const veiled = look.highlight != null && look.highlight !== index;
    table[index] = veiled ? VEIL : rgba(...colorOf(index), 255);
  });
  return table;
}

let tables = { version: -1, classes: null };

function currentTable() {
  if (tables.version !== look.version) tables = { version: look.version, classes: classTable() };
  return tables.classes;
}

/* 0 where two label maps agree, 1 where they do not, ignore where either says nothing. */
function differenceMap(one, other) {
  return one.map((value, i) => (value === IGNORE || other[i] === IGNORE ? IGNORE : Number(value !== other[i])));
}

/* A layer's colours, once for each look: ignore is hatched, so that no class's colour can be taken for it. */
function painted(thumb, id) {
  const known = thumb.painted[id];
  if (known?.version === look.version) return known.canvas;
  const { of } = layerNamed(id);
  const isDifference = of.length === 2;
  const map = isDifference ? differenceMap(thumb.maps[of[0]], thumb.maps[of[1]]) : thumb.maps[of[0]];
  const table = isDifference ? Uint32Array.of(VEIL, DIFFERENT) : currentTable();
  const canvas = known?.canvas ?? h("canvas", { width: thumb.width, height: thumb.height });
  const picture = new ImageData(thumb.width, thumb.height);
  const out = new Uint32Array(picture.data.buffer);
  const bare = look.highlight != null && !isDifference ? VEIL : 0;
  for (let y = 0, i = 0; y < thumb.height; y += 1) {
    for (let x = 0; x < thumb.width; x += 1, i += 1) {
      const value = map[i];
      if (value !== IGNORE) out[i] = table[value];
      else if (bare) out[i] = bare;
      else out[i] = (x + y) % 8 < 2 ? HATCH_LIGHT : HATCH_DARK;
    }
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
  thumb.painted[id] = { version: look.version, canvas };
  return canvas;
}

function drawSide(context, thumb, id, from, to) {
  const { width, height } = context.canvas;
  if (to <= from) return;
  context.save();
  context.beginPath();
  context.rect(from, 0, to - from, height);
  context.clip();
  if (thumb.image) {
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(thumb.image, 0, 0, width, height);
  } else {
    context.fillStyle = "#555";
    context.fillRect(0, 0, width, height);
  }
  if (id !== "image" && hasLayer(thumb, id)) {
    context.globalAlpha = shown.opacity;
    context.imageSmoothingEnabled = false; // between two class indices there is no third
    context.drawImage(painted(thumb, id), 0, 0, width, height);
  }
  context.restore();
}

/* Draw a thumb over the whole canvas, the left layer up to `split` (0..1), the right one from there. */
function draw(canvas, thumb, split) {
  const context = canvas.getContext("2d");
  const edge = Math.round(canvas.width * split);
  drawSide(context, thumb, shown.left, 0, edge);
  drawSide(context, thumb, shown.right, edge, canvas.width);
  if (split > 0 && split < 1 && shown.left !== shown.right) {
    const line = Math.max(1, Math.round(canvas.width / 500));
    context.fillStyle = "#fff";
    context.fillRect(edge - line / 2, 0, line, canvas.height);
  }
}

/* What lies under a place of a thumb, of 0..1 in either direction: [layer's label, class name]. */
function namesAt(thumb, ids, x, y) {
  const column = clamp(Math.floor(x * thumb.width), 0, thumb.width - 1);
  const row = clamp(Math.floor(y * thumb.height), 0, thumb.height - 1);
  return ids
    .filter((id) => thumb.maps[id])
    .map((id) => [LAYER_LABELS[id], nameOf(thumb.maps[id][row * thumb.width + column])]);
}

/* Maps that must be loaded to draw what is shown. */
const mapsShown = () => [...new Set([...layerNamed(shown.left).of, ...layerNamed(shown.right).of])];
