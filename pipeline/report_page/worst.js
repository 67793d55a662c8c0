/* The way from the overview into the gallery: the worst images, and lists to start from. */

const WORST_SHOWN = 6;

const WORST_WORDS = {
  error: "Most errors",
  disagreement: "Most disagreement with coarse",
  ignore: "Most ignored",
  confidence: "Least confident",
  key: "Images",
};

const worst = { element: h("section", { class: "panel worst", hidden: true }), cards: [] };

function drawWorst() {
  for (const { canvas, thumb } of worst.cards) if (thumb) draw(canvas, thumb, 0.5);
}

function worstCard(item, sort) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const key = items.key[item];
  const words = [h("span", { class: "key" }, shortName(key)), h("span", { class: "metrics" }, metricsLine(item, sort))];
  const element = h("button", { type: "button", class: "worst-card", title: key }, canvas, words);
  element.addEventListener("click", () => openItem(key));
  return { item, element, canvas, thumb: null };
}

async function loadWorst(card) {
  const thumb = await loadThumb(card.item, summary.layers);
  if (!thumb) return card.canvas.remove();
  card.thumb = thumb;
  [card.canvas.width, card.canvas.height] = [thumb.width, thumb.height];
  draw(card.canvas, thumb, 0.5);
}

/* Their pictures are not read for who opens the gallery at once. */
function loadWhenSeen() {
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    seen.disconnect();
    worst.cards.forEach(loadWorst);
  });
  seen.observe(worst.element);
}

function startWorst() {
  if (!items.count) return;
  const sort = defaultSort();
  const all = sortItems(Uint32Array.from(items.key.keys()), sort);
  worst.cards = Array.from(all.subarray(0, WORST_SHOWN), (item) => worstCard(item, sort));
  const button = (label, filters) => {
    const made = h("button", { type: "button" }, label);
    made.addEventListener("click", () => openGallery({ ...filters, sort, reverse: false }));
    return made;
  };
  worst.element.append(
    h("h2", {}, WORST_WORDS[sort]),
    h(
      "div",
      { class: "worst-cards" },
      worst.cards.map(({ element }) => element),
    ),
    h(
      "div",
      { class: "worst-lists" },
      button(`All ${count(items.count)} images`, {}),
      sort !== "key" && items.count > 100 && button("Worst 100", { worst: 100 }),
      summary.counts.failed > 0 && button("Failed", { state: "f" }),
      summary.counts.reviewed > 0 && button("Reviewed", { state: "r" }),
    ),
  );
  worst.element.hidden = false;
  loadWhenSeen();
  when("look", drawWorst);
}
