/* Items and thumbnails: the table of all items, and the files of thumbnails, loaded when seen and dropped when many. */

const items = { count: 0, shares: {} };
const SHARES = ["disagreement", "error", "ignore", "confidence"];

/* Text of so many files is held; the ones used last stay. */
const FILES_HELD = 48;
const LOADS_AT_ONCE = 4;

function base64Bytes(text) {
  const binary = atob(text);
  const out = new Uint8Array(binary.length);
  for (let i = 0; i < out.length; i += 1) out[i] = binary.charCodeAt(i);
  return out;
}

function takeItems(table) {
  Object.assign(items, table, { count: table.key.length });
  items.classBytes = Math.ceil(summary.classes.length / 8);
  items.bits = base64Bytes(table.classes);
  items.lower = table.key.map((key) => key.toLowerCase());
  items.place = new Map(table.key.map((key, index) => [key, index]));
  for (const name of SHARES) {
    items.shares[name] = Float32Array.from(table[name], (share) => share ?? NaN);
  }
}

const hasClass = (item, index) => (items.bits[item * items.classBytes + (index >> 3)] >> (index & 7)) & 1;
const isKnown = (name) => items.shares[name]?.some((share) => !Number.isNaN(share)) ?? false;

/* Scripts are the one thing that a page from a folder may load; each calls `window.autocoarse` with what it holds. */
function loadScript(path) {
  return new Promise((resolve, reject) => {
    const script = h("script", { src: path, async: true });
    script.onload = () => resolve(script.remove());
    script.onerror = () => reject(new Error(`cannot load ${path}`), script.remove());
    document.head.append(script);
  });
}

/* Files of thumbnails: number of the file -> { entries, or null while it loads; waiting: who is to be called }. */
const files = new Map();
const queue = [];
let loading = 0;

function takeThumbs(first, entries) {
  const number = Math.floor(first / summary.thumbs_per_file);
  const file = files.get(number);
  if (file) file.entries = entries;
}

function pump() {
  while (loading < LOADS_AT_ONCE && queue.length) {
    const number = queue.pop(); // what was asked for last is what is seen now
    const file = files.get(number);
    if (!file.waiting.some(({ wanted }) => wanted())) {
      file.waiting.forEach(({ resolve }) => resolve(null)); // scrolled past before its turn came
      files.delete(number);
      continue;
    }
    loading += 1;
    loadScript(`data/thumbs-${String(number).padStart(5, "0")}.js`)
      .catch(() => {
        file.entries = []; // its items are shown without a picture
      })
      .then(() => {
        loading -= 1;
        file.entries ??= [];
        file.waiting.splice(0).forEach(({ resolve }) => resolve(file.entries));
        pump();
      });
  }
}

function fileOf(number, wanted) {
  let file = files.get(number);
  if (file)
    files.delete(number); // and set again: a Map keeps the order in which its keys were set
  else {
    file = { entries: null, waiting: [] };
    queue.push(number);
  }
  files.set(number, file);
  for (const [old, { entries }] of files) {
    if (files.size <= FILES_HELD) break;
    if (entries) files.delete(old);
  }
  if (file.entries) return Promise.resolve(file.entries);
  return new Promise((resolve) => {
    file.waiting.push({ resolve, wanted });
    pump();
  });
}

async function inflated(packed) {
  const stream = new Blob([base64Bytes(packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function bitmapOf(base64) {
  return createImageBitmap(new Blob([base64Bytes(base64)], { type: "image/jpeg" }));
}

/* What cannot be decoded is not there: one bad picture must not take the others with it. */
async function orNull(promise) {
  try {
    return await promise;
  } catch {
    return null;
  }
}

/* An item's pictures: { width, height, image: ImageBitmap or null, maps: { layer: Uint8Array }, painted: {} }.
   Null: it has none, or nobody wants it any more. */
async function loadThumb(item, layers, wanted = () => true) {
  const number = items.thumb[item];
  if (number == null) return null;
  const entries = await fileOf(Math.floor(number / summary.thumbs_per_file), wanted);
  const entry = entries?.[number % summary.thumbs_per_file];
  if (!entry || !wanted()) return null;
  const thumb = { item, width: entry.w, height: entry.h, image: null, maps: {}, painted: {} };
  const maps = layers.filter((layer) => entry[layer]);
  const [image, ...values] = await Promise.all([
    entry.image ? orNull(bitmapOf(entry.image)) : null,
    ...maps.map((layer) => orNull(inflated(entry[layer]))),
  ]);
  thumb.image = image;
  maps.forEach((layer, index) => {
    if (values[index]?.length === entry.w * entry.h) thumb.maps[layer] = values[index];
  });
  return thumb;
}

window.autocoarse = { addItems: takeItems, addThumbs: takeThumbs };
