/* What was found, to be taken along; and how it is drawn: the layers on either side of the split, and their opacity. */

async function copyText(text, done) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "hidden" }, text); // where a page from a folder may not use the clipboard
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(done);
}

const matchingKeys = () => Array.from(query.matches, (item) => `${items.key[item]}\n`).join("");

function saveKeys() {
  const link = h("a", {
    href: URL.createObjectURL(new Blob([matchingKeys()], { type: "text/plain" })),
    download: "keys.txt",
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/* One of several layers, for one side of the split. */
function layerPicker(side, label, onchange) {
  const select = selectOf(
    `${side}-layer-${label}`,
    layers.map(({ id, label: text }) => [id, text]),
    shown[side],
    (id) => {
      shown[side] = id;
      onchange();
    },
  );
  select.classList.add("layer");
  select.setAttribute("aria-label", side === "left" ? "Left of the split" : "Right of the split");
  return { element: select, show: () => (select.value = shown[side]) };
}

function opacitySlider(id) {
  const input = h("input", {
    type: "range",
    id,
    min: 0,
    max: 1,
    step: 0.05,
    value: shown.opacity,
    "aria-label": "Opacity of labels",
  });
  input.addEventListener("input", () => {
    shown.opacity = Number(input.value);
    lookChanged();
  });
  return {
    element: h("label", { class: "opacity", title: "Opacity of labels" }, h("span", {}, "Opacity"), input),
    show: () => (input.value = shown.opacity),
  };
}

const keepAddress = oncePerFrame(() => writeAddress());

function lookChanged() {
  tell("look");
  keepAddress();
}

function startResults() {
  const found = h("p", { id: "found", "aria-live": "polite" });
  const copy = h(
    "button",
    { type: "button", id: "copy-keys", title: "For autocoarse export --select keys:FILE" },
    "Copy keys",
  );
  const save = h(
    "button",
    { type: "button", id: "save-keys", title: "For autocoarse export --select keys:FILE" },
    "Save keys",
  );
  const share = h("button", { type: "button", id: "copy-link", title: "The address holds the filters" }, "Copy link");
  copy.addEventListener("click", () => copyText(matchingKeys(), `${count(query.matches.length)} keys copied`));
  save.addEventListener("click", saveKeys);
  share.addEventListener("click", () => copyText(location.href, "Link copied"));
  const parts = [
    layerPicker("left", "grid", lookChanged),
    layerPicker("right", "grid", lookChanged),
    opacitySlider("grid-opacity"),
  ];
  byId("results-bar").append(
    found,
    h(
      "div",
      { class: "looks" },
      parts[0].element,
      h("span", { class: "against", "aria-hidden": "true" }, "|"),
      parts[1].element,
      parts[2].element,
    ),
    h("div", { class: "actions" }, copy, save, share),
  );
  when("query", () => {
    const some = query.matches.length < items.count ? ` of ${count(items.count)}` : "";
    found.replaceChildren(h("strong", {}, count(query.matches.length)), `${some} images`);
    copy.disabled = save.disabled = !query.matches.length;
  });
  when("look", () => parts.forEach((part) => part.show()));
}
