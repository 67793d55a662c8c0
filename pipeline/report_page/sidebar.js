/* What the gallery is filtered by: text, order, folder, state, shares, classes. */

function field(label, control) {
  return h("label", { class: "field" }, h("span", {}, label), control);
}

function selectOf(id, options, chosen, onchange) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("select", { id, onchange: (event) => onchange(event.target.value) }, made);
}

function textField() {
  const input = h("input", {
    type: "search",
    id: "filter-text",
    placeholder: "part of a key",
    autocomplete: "off",
    spellcheck: "false",
  });
  input.addEventListener(
    "input",
    oncePerFrame(() => change({ text: input.value })),
  );
  return field("Search", input);
}

function sortField() {
  const usable = Object.entries(SORTS).filter(([, { share }]) => !share || isKnown(share));
  const select = selectOf(
    "sort",
    usable.map(([id, { label }]) => [id, label]),
    query.sort,
    (sort) => change({ sort }),
  );
  const turn = h(
    "button",
    { type: "button", id: "reverse", title: "Turn the order round", "aria-label": "Turn the order round" },
    "⇅",
  );
  turn.addEventListener("click", () => change({ reverse: !query.reverse }));
  return h("div", { class: "field" }, h("label", { for: "sort" }, "Order"), h("div", { class: "pair" }, select, turn));
}

function worstField() {
  const input = h("input", { type: "number", id: "worst", min: 0, step: 1, placeholder: "all", inputmode: "numeric" });
  input.addEventListener("input", () => change({ worst: Math.max(0, Math.floor(Number(input.value) || 0)) }));
  return field("Only the first", input);
}

function folderField() {
  const sizes = new Array(items.folders.length).fill(0);
  items.folder.forEach((folder) => (sizes[folder] += 1));
  const options = items.folders.map((name, index) => [String(index), `${folderName(name)} (${count(sizes[index])})`]);
  options.sort((a, b) => items.folders[a[0]].localeCompare(items.folders[b[0]], "en", { numeric: true }));
  const select = selectOf("folder", [["", "all"], ...options], "", (value) =>
    change({ folder: value === "" ? null : Number(value) }),
  );
  return field("Folder", select);
}

function stateField() {
  const usable = Object.entries(STATES).filter(([, { test }]) => items.key.some((_, item) => test(item)));
  if (usable.length < 2) return null;
  const options = usable.map(([id, { label }]) => [id, label]);
  return field(
    "State",
    selectOf("state", [["", "any"], ...options], "", (value) => change({ state: value || null })),
  );
}

const MANY_CLASSES = 20;

/* The legend: a box to see only images with the class, a name to see only the class in the images. */
function legend() {
  const rows = summary.classes.map((row, index) => {
    const box = h("input", { type: "checkbox", id: `has-${index}`, "aria-label": `Only images with ${row.name}` });
    box.addEventListener("change", () => {
      const others = query.classes.filter((other) => other !== index);
      change({ classes: box.checked ? [...others, index] : others });
    });
    const name = h(
      "button",
      { type: "button", class: "class-name", "aria-pressed": "false", title: `Show only ${row.name} in the images` },
      swatch(index),
      h("span", {}, row.name),
    );
    name.addEventListener("click", () => {
      setHighlight(index);
      writeAddress();
    });
    const number = h("span", { class: "number" });
    return { box, name, number, element: h("li", {}, box, name, number) };
  });
  const show = () => {
    const found = new Uint32Array(rows.length);
    for (const item of query.matches)
      for (let index = 0; index < found.length; index += 1) found[index] += hasClass(item, index);
    rows.forEach(({ box, name, number, element }, index) => {
      box.checked = query.classes.includes(index);
      number.textContent = count(found[index]);
      element.classList.toggle("none", !found[index]);
      name.setAttribute("aria-pressed", String(look.highlight === index));
    });
  };
  const search = h("input", { type: "search", placeholder: "part of a class", "aria-label": "Search a class" });
  search.addEventListener("input", () => {
    const part = search.value.trim().toLowerCase();
    rows.forEach(({ element }, index) => (element.hidden = !nameOf(index).toLowerCase().includes(part)));
  });
  const element = h(
    "fieldset",
    { class: "legend" },
    h("legend", {}, "Classes"),
    h("p", { class: "hint" }, "Tick: only images that have it. Name: show only it."),
    rows.length > MANY_CLASSES && search,
    h(
      "ul",
      {},
      rows.map((row) => row.element),
    ),
  );
  return { element, show };
}

/* What can be undone, always at the top: neither what is asked for nor the room for it moves. */
function sidebarHead() {
  const reset = h("button", { type: "button", id: "reset" }, "Clear");
  const only = h("button", { type: "button", id: "show-all", title: "Show all classes again (0)" });
  const clear = () => {
    change(noFilters());
    byId("filter-text").value = "";
  };
  reset.addEventListener("click", clear);
  byId("nothing-reset").addEventListener("click", clear);
  only.addEventListener("click", () => {
    setHighlight(look.highlight);
    writeAddress();
  });
  const show = () => {
    reset.disabled = !isFiltered();
    only.hidden = look.highlight == null;
    if (look.highlight != null)
      only.replaceChildren(swatch(look.highlight), h("span", {}, `only ${nameOf(look.highlight)} ✕`));
  };
  return { element: h("div", { class: "filters-head" }, h("h2", {}, "Filters"), only, reset), show };
}

function startSidebar() {
  const ranges = SHARES.filter(isKnown).map(rangeField);
  const classes = legend();
  const head = sidebarHead();
  const body = h(
    "div",
    { class: "filters-body" },
    head.element,
    textField(),
    sortField(),
    h("div", { class: "pair" }, folderField(), worstField()),
    stateField(),
    ranges.map((range) => range.element),
    classes.element,
  );
  const folded = h("span", { class: "number" });
  const details = h(
    "details",
    { id: "filters-fold", open: !phone.matches },
    h("summary", {}, "Filters and classes", folded),
    body,
  );
  phone.addEventListener("change", () => (details.open = !phone.matches));
  byId("filters").append(details);
  when("query", () => {
    const text = byId("filter-text");
    if (text !== document.activeElement) text.value = query.text;
    folded.textContent = ` ${count(query.matches.length)} of ${count(items.count)}`;
    byId("sort").value = query.sort;
    byId("folder").value = query.folder ?? "";
    if (byId("state")) byId("state").value = query.state ?? "";
    const worst = byId("worst");
    if (worst !== document.activeElement) worst.value = query.worst || "";
    byId("reverse").setAttribute("aria-pressed", String(query.reverse));
    [...ranges, classes, head].forEach((part) => part.show());
  });
  when("look", () => [classes, head].forEach((part) => part.show()));
}
