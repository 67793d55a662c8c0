/* The gallery: as many cards as are seen, and no more, at their places in a list that may hold any number of items. */

const GAP = 12;
const CAPTION = 50;
const ROWS_BEYOND = 1; // ready above and below what is seen, so that a step of the wheel shows no blanks

const grid = { cards: new Map(), columns: 1, width: 0, picture: 0, current: 0 };

/* Height over width of the pictures' box: the items' own, as far as they agree. */
function boxRatio() {
  const known = [];
  for (let item = 0; item < items.count; item += Math.ceil(items.count / 500)) {
    if (items.width[item] > 0) known.push(items.height[item] / items.width[item]);
  }
  known.sort((a, b) => a - b);
  return clamp(known[known.length >> 1] ?? 0.75, 0.4, 1.1);
}

function layOut() {
  const box = byId("grid");
  const width = box.clientWidth;
  const wanted = phone.matches ? 165 : innerWidth > 2000 ? 330 : 250;
  grid.columns = Math.max(1, Math.round((width + GAP) / (wanted + GAP)));
  grid.width = Math.floor((width - GAP * (grid.columns - 1)) / grid.columns);
  grid.ratio ??= boxRatio();
  grid.picture = Math.round(grid.width * grid.ratio);
  grid.rowHeight = grid.picture + CAPTION + GAP;
  const rows = Math.ceil(query.matches.length / grid.columns);
  box.style.height = `${Math.max(0, rows * grid.rowHeight - GAP)}px`;
  for (const card of grid.cards.values()) putCard(card);
  showCards();
}

function seenPositions() {
  const top = byId("grid").getBoundingClientRect().top;
  const firstRow = Math.floor(-top / grid.rowHeight) - ROWS_BEYOND;
  const lastRow = Math.floor((innerHeight - top) / grid.rowHeight) + ROWS_BEYOND;
  return [
    Math.max(0, firstRow * grid.columns),
    Math.min(query.matches.length, Math.max(0, (lastRow + 1) * grid.columns)),
  ];
}

function showCards() {
  if (place.tab !== "gallery") return;
  const [from, to] = seenPositions();
  for (const [position, card] of grid.cards) {
    if (position < from || position >= to || card.item !== query.matches[position]) dropCard(position);
  }
  for (let position = from; position < to; position += 1) {
    if (!grid.cards.has(position)) addCard(position);
  }
}

function dropCard(position) {
  const card = grid.cards.get(position);
  if (card.element.contains(document.activeElement)) byId("grid").focus({ preventScroll: true });
  card.gone = true;
  card.element.remove();
  grid.cards.delete(position);
}

function putCard(card) {
  const { style } = card.element;
  style.width = `${grid.width}px`;
  style.height = `${grid.picture + CAPTION}px`;
  style.left = `${(card.position % grid.columns) * (grid.width + GAP)}px`;
  style.top = `${Math.floor(card.position / grid.columns) * grid.rowHeight}px`;
  card.frame.style.height = `${grid.picture}px`;
  if (card.thumb) fitCanvas(card);
}

const METRIC_SHORT = { error: "error", disagreement: "≠ coarse", ignore: "ignored", confidence: "sure" };

function metricsLine(item, sort) {
  const named = SORTS[sort].share;
  const names = Object.keys(METRIC_SHORT).filter((name) => !Number.isNaN(items.shares[name][item]));
  names.sort((a, b) => (b === named) - (a === named)); // what the list is sorted by comes first
  return names.map((name) =>
    h(
      "span",
      { class: name === named ? "metric chief" : "metric" },
      `${percent(items.shares[name][item])} ${METRIC_SHORT[name]}`,
    ),
  );
}

function badges(item) {
  const made = [];
  if (items.state[item] === "f") made.push(h("span", { class: "badge bad" }, "failed"));
  if (items.state[item] === "l") made.push(h("span", { class: "badge" }, "not labelled"));
  if (items.reviewed[item]) made.push(h("span", { class: "badge good" }, "reviewed"));
  return made;
}

const shortName = (key) => key.slice(key.lastIndexOf("/") + 1);

function addCard(position) {
  const item = query.matches[position];
  const key = items.key[item];
  const frame = h("div", { class: "frame" });
  const link = h(
    "a",
    { class: "card", href: addressOf("gallery", item), tabindex: position === grid.current ? 0 : -1, title: key },
    frame,
    h("span", { class: "key" }, shortName(key)),
    h("span", { class: "metrics" }, metricsLine(item, query.sort)),
    badges(item),
  );
  const element = h(
    "div",
    { class: "cell", role: "listitem", "aria-setsize": query.matches.length, "aria-posinset": position + 1 },
    link,
  );
  const card = { position, item, element, link, frame, canvas: null, thumb: null, split: 0.5, gone: false };
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a window of its own: the browser's business
    event.preventDefault();
    openViewer(position);
  });
  link.addEventListener("focus", () => setCurrent(position));
  frame.addEventListener("pointermove", (event) => peek(card, event));
  frame.addEventListener("pointerleave", () => {
    hideTip();
    card.split = 0.5;
    drawCard(card);
  });
  grid.cards.set(position, card);
  putCard(card);
  byId("grid").append(element);
  loadCard(card);
}

async function loadCard(card) {
  const asked = mapsShown();
  const thumb = await loadThumb(card.item, asked, () => !card.gone);
  if (card.gone) return;
  if (!thumb) {
    card.frame.replaceChildren(
      h("span", { class: "blank" }, items.thumb[card.item] == null ? "no thumbnail" : "not found"),
    );
    return;
  }
  card.thumb = thumb;
  card.canvas ??= h("canvas", { "aria-hidden": "true" });
  card.frame.replaceChildren(card.canvas);
  fitCanvas(card);
}

function fitCanvas(card) {
  const { thumb, canvas } = card;
  const scale = Math.min(grid.width / thumb.width, grid.picture / thumb.height);
  const [width, height] = [Math.round(thumb.width * scale), Math.round(thumb.height * scale)];
  const dense = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  drawCard(card);
}

function drawCard(card) {
  if (card.thumb) draw(card.canvas, card.thumb, shown.left === shown.right ? 0 : card.split);
}

/* The pointer over a card draws its split along, and says what is under it. */
function peek(card, event) {
  if (!card.thumb || event.pointerType === "touch") return;
  const box = card.canvas.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (x < 0 || x >= 1 || y < 0 || y >= 1) return hideTip();
  card.split = x;
  drawCard(card);
  showTip(event, namesAt(card.thumb, mapsShown(), x, y));
}

function setCurrent(position) {
  const before = grid.cards.get(grid.current);
  if (before) before.link.tabIndex = -1;
  grid.current = clamp(position, 0, Math.max(0, query.matches.length - 1));
  const now = grid.cards.get(grid.current);
  if (now) now.link.tabIndex = 0;
}

/* Bring a position into view, and the keyboard to it. */
function goTo(position, focus = true) {
  setCurrent(position);
  const top = byId("grid").getBoundingClientRect().top + Math.floor(grid.current / grid.columns) * grid.rowHeight;
  const above = byId("results-bar").getBoundingClientRect().bottom + GAP;
  const below = top + grid.rowHeight - innerHeight;
  if (top < above) scrollBy(0, top - above);
  else if (below > 0) scrollBy(0, below);
  showCards();
  if (focus) grid.cards.get(grid.current)?.link.focus({ preventScroll: true });
}

function gridKey(event) {
  const page = Math.max(1, Math.floor(innerHeight / grid.rowHeight) - 1) * grid.columns;
  const steps = {
    ArrowRight: 1,
    ArrowLeft: -1,
    ArrowDown: grid.columns,
    ArrowUp: -grid.columns,
    PageDown: page,
    PageUp: -page,
  };
  const { key } = event;
  const to = key === "Home" ? 0 : key === "End" ? query.matches.length - 1 : grid.current + (steps[key] ?? NaN);
  if (Number.isNaN(to) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  if (to >= 0 && to < query.matches.length) goTo(to);
}

function redrawCards() {
  const needed = mapsShown();
  for (const card of grid.cards.values()) {
    if (!card.thumb || needed.every((map) => map in card.thumb.maps)) drawCard(card);
    else loadCard(card);
  }
}

/* Another list: to its beginning, unless it is the same one. */
function newList() {
  for (const position of [...grid.cards.keys()]) dropCard(position);
  grid.current = 0;
  byId("nothing").hidden = query.matches.length > 0;
  const bars = byId("results-bar").offsetHeight + document.querySelector(".bar").offsetHeight + GAP;
  const top = Math.max(0, byId("grid").getBoundingClientRect().top + scrollY - bars);
  if (place.tab === "gallery" && scrollY > top) scrollTo(0, top);
  layOut();
}

function startGrid() {
  byId("grid").tabIndex = -1;
  byId("grid").addEventListener("keydown", gridKey);
  addEventListener("scroll", oncePerFrame(showCards), { passive: true });
  new ResizeObserver(oncePerFrame(layOut)).observe(byId("grid").parentElement);
  when("query", newList);
  when("look", redrawCards);
}

/* The name of what is under the pointer. */
const tip = h("div", { id: "tip", role: "tooltip", hidden: true });

function showTip(event, names) {
  if (!names.length) return hideTip();
  const alone = names.length === 1;
  tip.replaceChildren(...names.map(([layer, name]) => h("span", {}, alone ? "" : h("small", {}, `${layer} `), name)));
  tip.hidden = false;
  tip.style.left = `${clamp(event.clientX + 14, 4, innerWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${clamp(event.clientY + 18, 4, innerHeight - tip.offsetHeight - 4)}px`;
}

function hideTip() {
  tip.hidden = true;
}
