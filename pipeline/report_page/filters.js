/* Which items are shown, in which order, and the address that says so, so that a view can be shared. */

const SORTS = {
  error: { label: "Most errors", share: "error", down: true },
  disagreement: { label: "Most disagreement", share: "disagreement", down: true },
  ignore: { label: "Most ignored", share: "ignore", down: true },
  confidence: { label: "Least confident", share: "confidence", down: false },
  key: { label: "By key" },
};

const STATES = {
  d: { label: "labelled", test: (item) => items.state[item] === "d" },
  f: { label: "failed", test: (item) => items.state[item] === "f" },
  l: { label: "not labelled yet", test: (item) => items.state[item] === "l" },
  r: { label: "reviewed", test: (item) => items.reviewed[item] === 1 },
};

const noFilters = () => ({ text: "", folder: null, state: null, classes: [], ranges: {}, worst: 0 });
const query = { ...noFilters(), sort: "key", reverse: false, matches: new Uint32Array(0) };

/* The layers on either side of the split, and how strongly labels cover the image. */
const shown = { left: "image", right: "auto", opacity: 0.6 };

function passing(item) {
  if (query.text && !query.words.every((word) => items.lower[item].includes(word))) return false;
  if (query.folder != null && items.folder[item] !== query.folder) return false;
  if (query.state && !STATES[query.state].test(item)) return false;
  for (const index of query.classes) if (!hasClass(item, index)) return false;
  for (const [name, { low, high }] of Object.entries(query.ranges)) {
    const share = items.shares[name][item];
    if (!(share >= low - 1e-6 && share <= high + 1e-6)) return false; // not known: not within
  }
  return true;
}

function sortItems(found, sort, reverse = false) {
  const { share, down } = SORTS[sort];
  const sign = reverse ? -1 : 1;
  if (!share) {
    const order = new Intl.Collator("en", { numeric: true });
    return found.sort((a, b) => sign * order.compare(items.key[a], items.key[b]));
  }
  const values = items.shares[share];
  const downward = sign * (down ? -1 : 1);
  return found.sort((a, b) => {
    const [x, y] = [values[a], values[b]];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b; // not known: last
    return downward * (x - y) || a - b;
  });
}

function runQuery() {
  query.words = query.text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  for (let item = 0; item < items.count; item += 1) if (passing(item)) found.push(item);
  const sorted = sortItems(Uint32Array.from(found), query.sort, query.reverse);
  query.matches = query.worst > 0 ? sorted.subarray(0, query.worst) : sorted;
  tell("query");
}

function change(changes) {
  Object.assign(query, changes);
  runQuery();
  writeAddress();
}

const isFiltered = () =>
  Boolean(query.text || query.folder != null || query.state || query.classes.length || query.worst) ||
  Object.keys(query.ranges).length > 0;

/* The address. Names, not numbers, of classes and folders: it means the same after the report is made again. */
const place = { tab: "overview", item: null };

function addressOf(tab, item) {
  const parts = new URLSearchParams({ view: tab });
  if (item != null) parts.set("item", items.key[item]);
  if (query.text) parts.set("text", query.text);
  if (query.folder != null) parts.set("folder", items.folders[query.folder]);
  if (query.state) parts.set("state", query.state);
  for (const index of query.classes) parts.append("class", summary.classes[index].name);
  for (const [name, { low, high }] of Object.entries(query.ranges)) parts.set(name, `${low}..${high}`);
  if (query.worst) parts.set("first", query.worst);
  if (query.sort !== defaultSort()) parts.set("sort", query.sort);
  if (query.reverse) parts.set("reverse", "1");
  if (look.highlight != null) parts.set("only", summary.classes[look.highlight].name);
  if (shown.left !== firstShown().left) parts.set("left", shown.left);
  if (shown.right !== firstShown().right) parts.set("right", shown.right);
  if (shown.opacity !== 0.6) parts.set("opacity", shown.opacity);
  return `#${parts}`;
}

function writeAddress(push = false) {
  const address = addressOf(place.tab, place.item);
  if (address === location.hash) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
}

const defaultSort = () => ["error", "disagreement", "ignore", "confidence"].find(isKnown) ?? "key";

function firstShown() {
  const has = (layer) => summary.layers.includes(layer);
  return { left: "image", right: ["merged", "auto", "coarse", "truth"].find(has) ?? "image" };
}

function readRange(text) {
  const [low, high] = text.split("..").map(Number);
  return low >= 0 && high <= 1 && low <= high ? { low, high } : null;
}

/* Read what an address asks for; what it names and this report lacks is passed over. */
function readAddress(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const classIndex = (name) => summary.classes.findIndex((row) => row.name === name);
  Object.assign(query, noFilters(), { text: parts.get("text") ?? "", reverse: parts.get("reverse") === "1" });
  if (parts.has("folder")) query.folder = items.folders.indexOf(parts.get("folder"));
  if (query.folder === -1) query.folder = null;
  if (Object.hasOwn(STATES, parts.get("state"))) query.state = parts.get("state");
  query.classes = parts
    .getAll("class")
    .map(classIndex)
    .filter((index) => index >= 0);
  for (const name of SHARES) {
    const range = parts.has(name) && isKnown(name) ? readRange(parts.get(name)) : null;
    if (range) query.ranges[name] = range;
  }
  query.worst = Math.max(0, Math.floor(Number(parts.get("first")) || 0));
  const sort = parts.get("sort");
  query.sort = Object.hasOwn(SORTS, sort) && (sort === "key" || isKnown(sort)) ? sort : defaultSort();
  const only = classIndex(parts.get("only"));
  look.highlight = only >= 0 ? only : null;
  look.version += 1;
  Object.assign(shown, firstShown());
  for (const side of ["left", "right"]) if (layerNamed(parts.get(side))) shown[side] = parts.get(side);
  shown.opacity = parts.has("opacity") ? clamp(Number(parts.get("opacity")) || 0, 0, 1) : 0.6;
  place.tab = parts.get("view") === "gallery" || parts.has("item") ? "gallery" : "overview";
  place.item = parts.has("item") ? (items.place.get(parts.get("item")) ?? null) : null;
}
