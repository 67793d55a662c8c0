/* Put the parts together: tabs, address, keys; and read the table of items once the overview is there. */

const KEYS = [
  [
    "Anywhere",
    [
      ["g", "gallery"],
      ["v", "overview"],
      ["/", "search"],
      ["t", "dark or light"],
      ["p", "colours for all eyes, or the schema's"],
      ["0", "show all classes again"],
      ["?", "these keys"],
    ],
  ],
  [
    "In the gallery",
    [
      ["← → ↑ ↓", "go from image to image"],
      ["Page, Home, End", "go far"],
      ["Enter", "open large"],
    ],
  ],
  [
    "In the large view",
    [
      ["← →", "previous, next image; move the split while it has the focus"],
      ["n b", "next, back, always"],
      ["[ ]", "move the split"],
      ["1 … 9", "layer right of the split, with Shift left"],
      ["s", "swap the two layers"],
      ["Escape", "close"],
    ],
  ],
];

function buildHelp() {
  const lists = KEYS.map(([where, keys]) =>
    h(
      "section",
      {},
      h("h3", {}, where),
      h(
        "dl",
        {},
        keys.flatMap(([key, meaning]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, meaning)]),
      ),
    ),
  );
  const close = h("button", { type: "button", id: "help-close" }, "Close");
  close.addEventListener("click", () => byId("help").close());
  byId("help").append(h("h2", { id: "help-title" }, "Keys"), h("div", { class: "key-lists" }, lists), close);
}

const scrolled = { overview: 0, gallery: 0 };

function showTab(tab) {
  if (!byId(tab).hidden) return;
  if (!byId(place.tab).hidden) scrolled[place.tab] = scrollY;
  place.tab = tab;
  for (const name of ["overview", "gallery"]) {
    byId(name).hidden = name !== tab;
    if (name === tab) byId(`tab-${name}`).setAttribute("aria-current", "page");
    else byId(`tab-${name}`).removeAttribute("aria-current");
  }
  scrollTo(0, scrolled[tab]);
  if (tab === "gallery" && items.key) layOut();
}

function goTab(tab) {
  showTab(tab);
  if (items.key) return writeAddress(true);
  const parts = new URLSearchParams(location.hash.slice(1)); // its filters are read when there are items
  parts.set("view", tab);
  history.replaceState(null, "", `#${parts}`);
}

/* Open the gallery with these filters, and no others. */
function openGallery(filters) {
  change({ ...noFilters(), ...filters });
  scrolled.gallery = 0;
  goTab("gallery");
}

function openItem(key) {
  const item = items.place.get(key);
  if (item == null) return;
  if (!query.matches.includes(item)) change(noFilters());
  goTab("gallery");
  openViewer(query.matches.indexOf(item));
}

/* What the address says, whether at the start, by a link, or by going back. */
function followAddress() {
  if (!items.key)
    return showTab(new URLSearchParams(location.hash.slice(1)).get("view") === "gallery" ? "gallery" : "overview");
  const before = place.tab;
  readAddress(location.hash);
  const { tab, item } = place;
  place.tab = before;
  showTab(tab);
  runQuery();
  relook();
  if (item == null) {
    if (dialog.open) dialog.close();
    return;
  }
  const position = query.matches.indexOf(item);
  if (position >= 0) openViewer(position);
}

function anyKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=checkbox], [type=range]), select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const { key } = event;
  if (key === "?") byId("help").open ? byId("help").close() : byId("help").showModal();
  else if (key === "t") byId("theme").click();
  else if (key === "p") byId("palette").click();
  else if (key === "0" && look.highlight != null) (setHighlight(look.highlight), writeAddress());
  else if (dialog.open || byId("help").open) return;
  else if (key === "g") goTab("gallery");
  else if (key === "v") goTab("overview");
  else if (key === "/") {
    goTab("gallery");
    byId("filters-fold").open = true;
    byId("filter-text").focus();
  } else if (
    place.tab === "gallery" &&
    event.target === document.body &&
    (key.startsWith("Arrow") || key === "Enter")
  ) {
    goTo(grid.current);
  } else return;
  event.preventDefault();
}

async function start() {
  buildHelp();
  startColors();
  buildOverview();
  followAddress();
  byId("keys").addEventListener("click", () => byId("help").showModal());
  for (const tab of ["overview", "gallery"]) {
    byId(`tab-${tab}`).addEventListener("click", (event) => {
      event.preventDefault();
      goTab(tab);
    });
  }
  addEventListener("keydown", anyKey);
  try {
    await loadScript("data/items.js");
  } catch (error) {
    byId("gallery").replaceChildren(
      h(
        "p",
        { class: "empty" },
        `The gallery is not there: ${error.message}. Keep the folder of this report together.`,
      ),
    );
    return;
  }
  startSidebar();
  startResults();
  startGrid();
  startViewer();
  startWorst();
  followAddress();
  addEventListener("popstate", followAddress);
  document.documentElement.dataset.ready = "yes";
}

start();
