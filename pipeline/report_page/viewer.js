/* One item, large: a split that is dragged or moved by keys, every layer beside it, and the classes in it. */

const viewer = { position: null, thumb: null, split: 0.5, parts: null, asked: 0 };

const dialog = byId("viewer");
const narrow = matchMedia("(max-width: 980px)");

function buildViewer() {
  const button = (id, text, title, work) => {
    const made = h("button", { type: "button", id, title, "aria-label": title }, text);
    made.addEventListener("click", work);
    return made;
  };
  const parts = {
    title: h("h2", { id: "viewer-title" }),
    at: h("p", { class: "at" }),
    stage: h("div", { class: "stage" }),
    canvas: h("canvas", { id: "stage-canvas" }),
    handle: h(
      "div",
      {
        class: "handle",
        id: "split",
        role: "slider",
        tabindex: 0,
        "aria-label": "Split between the two layers",
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-orientation": "horizontal",
      },
      h("span", {}),
    ),
    labels: { left: h("span", { class: "side left" }), right: h("span", { class: "side right" }) },
    blank: h("p", { class: "empty" }),
    strip: h("div", { class: "strip", role: "group", "aria-label": "Layers" }),
    facts: h("dl", { class: "facts" }),
    classes: h("ul", { class: "present" }),
    controls: [
      layerPicker("left", "viewer", lookChanged),
      layerPicker("right", "viewer", lookChanged),
      opacitySlider("viewer-opacity"),
    ],
  };
  parts.picture = h(
    "div",
    { class: "picture", hidden: true },
    parts.canvas,
    parts.labels.left,
    parts.labels.right,
    parts.handle,
  );
  parts.stage.append(parts.picture, parts.blank);
  const swap = button("swap", "⇄", "Swap the two layers (s)", swapSides);
  dialog.append(
    h(
      "header",
      {},
      parts.title,
      parts.at,
      button("previous", "←", "Previous image (←)", () => step(-1)),
      button("next", "→", "Next image (→)", () => step(1)),
      button("close", "✕", "Close (Escape)", () => dialog.close()),
    ),
    h(
      "div",
      { class: "viewer-body" },
      h(
        "div",
        { class: "viewer-main" },
        h(
          "div",
          { class: "looks" },
          parts.controls[0].element,
          swap,
          parts.controls[1].element,
          parts.controls[2].element,
        ),
        parts.stage,
        parts.strip,
      ),
      h(
        "div",
        { class: "viewer-side", tabindex: 0, role: "region", "aria-label": "About this image" },
        parts.facts,
        h("h3", {}, "Classes here"),
        h("p", { class: "hint" }, "Per cent of the pixels, by layer. Click: show only that class."),
        parts.classes,
      ),
    ),
  );
  dialog.setAttribute("aria-labelledby", "viewer-title");
  viewer.parts = parts;
}

function swapSides() {
  [shown.left, shown.right] = [shown.right, shown.left];
  lookChanged();
}

function openViewer(position) {
  const fresh = !dialog.open;
  viewer.position = position;
  place.item = query.matches[position];
  writeAddress(fresh);
  if (fresh) {
    dialog.showModal();
    document.documentElement.classList.add("still");
    byId("next").focus(); // so that arrows go on, and not the split
  }
  dialog.append(tip); // above the dialog only within it
  showItem();
}

function step(by) {
  const to = viewer.position + by;
  if (to < 0 || to >= query.matches.length) return say(by < 0 ? "This is the first" : "This is the last");
  openViewer(to);
}

async function showItem() {
  const item = place.item;
  const { parts } = viewer;
  const key = items.key[item];
  parts.title.replaceChildren(h("bdi", {}, key));
  parts.title.title = key;
  parts.at.textContent = `${count(viewer.position + 1)} of ${count(query.matches.length)}`;
  // not disabled, which would take the focus from them
  byId("previous").setAttribute("aria-disabled", String(viewer.position === 0));
  byId("next").setAttribute("aria-disabled", String(viewer.position === query.matches.length - 1));
  showFacts(item);
  const asked = ++viewer.asked;
  const thumb = await loadThumb(item, summary.layers, () => asked === viewer.asked && dialog.open);
  if (asked !== viewer.asked || !dialog.open) return;
  viewer.thumb = thumb;
  parts.picture.hidden = !thumb;
  parts.blank.hidden = Boolean(thumb);
  parts.blank.textContent =
    items.thumb[item] == null
      ? "This item has no thumbnail in this report."
      : "The file of its thumbnail is not there.";
  showStrip();
  showClasses();
  fitStage();
}

function showFacts(item) {
  const failure = summary.failures.find(({ key }) => key === items.key[item]);
  const state = { d: "labelled", f: "failed", l: "not labelled yet" }[items.state[item]];
  const rows = [
    ["Folder", folderName(items.folders[items.folder[item]])],
    ["Size", items.width[item] ? `${items.width[item]} × ${items.height[item]}` : NO_VALUE],
    ["State", items.reviewed[item] ? `${state}, reviewed` : state],
    ...SHARES.filter(isKnown).map((name) => [RANGE_LABELS[name], percent(items.shares[name][item], 2)]),
    failure && ["Why it failed", failure.reason],
  ];
  viewer.parts.facts.replaceChildren(
    ...rows.filter(Boolean).flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]),
  );
}

/* Every layer, small: a click puts it right of the split, with shift left of it. */
function showStrip() {
  const { thumb, parts } = viewer;
  const shownHere = thumb ? layers.filter(({ id }) => hasLayer(thumb, id)) : [];
  parts.strip.replaceChildren(
    ...shownHere.map(({ id, label }) => {
      const number = layers.findIndex((layer) => layer.id === id) + 1;
      const canvas = h("canvas", { width: thumb.width, height: thumb.height, "aria-hidden": "true" });
      const made = h(
        "button",
        { type: "button", "data-layer": id, title: `${label}: right of the split (${number}), left with Shift` },
        canvas,
        h("span", {}, label),
      );
      made.addEventListener("click", (event) => pickLayer(id, event.shiftKey ? "left" : "right"));
      return made;
    }),
  );
  drawStrip();
}

function drawStrip() {
  for (const made of viewer.parts.strip.children) {
    const { layer } = made.dataset;
    const canvas = made.firstChild;
    drawSide(canvas.getContext("2d"), viewer.thumb, layer, 0, canvas.width);
    made.classList.toggle("is-left", shown.left === layer);
    made.classList.toggle("is-right", shown.right === layer);
    made.setAttribute("aria-pressed", String(shown.left === layer || shown.right === layer));
  }
}

function pickLayer(id, side) {
  shown[side] = id;
  lookChanged();
}

/* Classes of any layer, with their share in each. */
function showClasses() {
  const { thumb, parts } = viewer;
  const ids = thumb ? summary.layers.filter((id) => thumb.maps[id]) : [];
  const tallies = ids.map((id) => {
    const tally = new Uint32Array(256);
    for (const value of thumb.maps[id]) tally[value] += 1;
    return tally;
  });
  const present = [...summary.classes.keys(), IGNORE].filter((index) => tallies.some((tally) => tally[index]));
  const most = (index) => Math.max(...tallies.map((tally) => tally[index]));
  present.sort((a, b) => (a === IGNORE) - (b === IGNORE) || most(b) - most(a));
  const head = ids.length
    ? [
        h(
          "li",
          { class: "head", "aria-hidden": "true" },
          h("span", {}),
          ids.map((id) => h("span", {}, LAYER_LABELS[id])),
        ),
      ]
    : [];
  parts.classes.style.setProperty("--layers", ids.length);
  parts.classes.replaceChildren(
    ...head,
    ...present.map((index) => {
      const name =
        index === IGNORE
          ? h("span", { class: "class-name" }, h("span", { class: "swatch hatch" }), h("span", {}, "ignore"))
          : h(
              "button",
              {
                type: "button",
                class: "class-name",
                "data-class": index,
                title: nameOf(index),
                "aria-pressed": String(look.highlight === index),
              },
              swatch(index),
              h("span", {}, nameOf(index)),
            );
      if (index !== IGNORE) name.addEventListener("click", () => (setHighlight(index), writeAddress()));
      return h(
        "li",
        {},
        name,
        tallies.map((tally) =>
          h(
            "span",
            { class: "number" },
            tally[index] ? ((100 * tally[index]) / (thumb.width * thumb.height)).toFixed(1) : NO_VALUE,
          ),
        ),
      );
    }),
  );
}

function fitStage() {
  const { thumb, parts } = viewer;
  if (!thumb || !dialog.open) return;
  const { clientWidth } = parts.stage;
  // where all scrolls there is no height to fill
  const tall = Math.min((clientWidth * thumb.height) / thumb.width, innerHeight * 0.6);
  parts.stage.style.height = narrow.matches ? `${Math.ceil(tall)}px` : "";
  const { clientHeight } = parts.stage;
  const scale = Math.min(clientWidth / thumb.width, clientHeight / thumb.height);
  const [width, height] = [Math.max(1, Math.floor(thumb.width * scale)), Math.max(1, Math.floor(thumb.height * scale))];
  parts.picture.style.width = `${width}px`;
  parts.picture.style.height = `${height}px`;
  const dense = Math.min(devicePixelRatio || 1, 2);
  parts.canvas.width = Math.round(width * dense);
  parts.canvas.height = Math.round(height * dense);
  drawStage();
}

function drawStage() {
  const { thumb, parts } = viewer;
  if (!thumb) return;
  const same = shown.left === shown.right;
  draw(parts.canvas, thumb, same ? 0 : viewer.split);
  parts.handle.hidden = same;
  parts.handle.style.left = `${100 * viewer.split}%`;
  parts.handle.setAttribute("aria-valuenow", Math.round(100 * viewer.split));
  parts.handle.setAttribute(
    "aria-valuetext",
    `${Math.round(100 * viewer.split)} % ${layerNamed(shown.left).label}, the rest ${layerNamed(shown.right).label}`,
  );
  for (const side of ["left", "right"]) {
    const { id, label } = layerNamed(shown[side]);
    parts.labels[side].textContent = hasLayer(thumb, id) ? label : `${label}: none here`;
  }
  parts.labels.left.hidden = same;
}

function setSplit(split) {
  viewer.split = clamp(split, 0, 1);
  drawStage();
}

const placeOn = (event) => {
  const box = viewer.parts.picture.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
};

function startDrag(event) {
  if (event.button !== 0) return;
  event.preventDefault();
  viewer.parts.picture.setPointerCapture(event.pointerId);
  viewer.dragging = true;
  setSplit(placeOn(event)[0]);
}

function movePointer(event) {
  const [x, y] = placeOn(event);
  if (viewer.dragging) setSplit(x);
  if (viewer.thumb && x >= 0 && x < 1 && y >= 0 && y < 1) showTip(event, namesAt(viewer.thumb, summary.layers, x, y));
  else hideTip();
}

function splitKey(event) {
  const moves = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1 };
  if (event.key === "Home") setSplit(0);
  else if (event.key === "End") setSplit(1);
  else if (event.key in moves) setSplit(viewer.split + moves[event.key] * (event.shiftKey ? 5 : 1));
  else return;
  event.preventDefault();
  event.stopPropagation(); // or the arrows would go on to the next image as well
}

function viewerKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
  if (digit && layers[digit - 1]) pickLayer(layers[digit - 1].id, event.shiftKey ? "left" : "right");
  else if (event.key === "ArrowRight" || event.key === "n") step(1);
  else if (event.key === "ArrowLeft" || event.key === "b") step(-1);
  else if (event.key === "s") swapSides();
  else if (event.key === "[") setSplit(viewer.split - 0.05);
  else if (event.key === "]") setSplit(viewer.split + 0.05);
  else return;
  event.preventDefault();
}

function closed() {
  document.documentElement.classList.remove("still");
  document.body.append(tip);
  hideTip();
  viewer.thumb = null;
  viewer.parts.picture.hidden = true; // the next one opened is not this one for a moment
  viewer.asked += 1;
  place.item = null;
  writeAddress();
  if (place.tab === "gallery" && viewer.position != null) goTo(viewer.position);
}

function startViewer() {
  document.body.append(tip);
  dialog.addEventListener("close", closed);
  dialog.addEventListener("keydown", viewerKey);
  buildViewer();
  const { picture, handle, stage } = viewer.parts;
  picture.addEventListener("pointerdown", startDrag);
  picture.addEventListener("pointermove", movePointer);
  picture.addEventListener("pointerleave", hideTip);
  for (const name of ["pointerup", "pointercancel"]) picture.addEventListener(name, () => (viewer.dragging = false));
  handle.addEventListener("keydown", splitKey);
  new ResizeObserver(oncePerFrame(fitStage)).observe(stage);
  when("look", () => {
    viewer.parts.controls.forEach((part) => part.show());
    if (!dialog.open || !viewer.thumb) return;
    drawStage();
    drawStrip();
    for (const name of viewer.parts.classes.querySelectorAll("[data-class]")) {
      name.setAttribute("aria-pressed", String(look.highlight === Number(name.dataset.class)));
    }
  });
}
