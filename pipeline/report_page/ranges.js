/* A share to filter by: two sliders on one track, over a histogram of all items. */

const RANGE_LABELS = {
  error: "Errors against truth",
  disagreement: "Disagreement with coarse",
  ignore: "Ignored pixels",
  confidence: "Mean confidence",
};
const BARS = 40;

/* From where to where the items are, rounded outwards: most shares are small, and a slider from 0 to 1 would be wasted. */
function spanOf(shares) {
  let [low, high] = [1, 0];
  for (const share of shares) {
    if (share < low) low = share;
    if (share > high) high = share;
  }
  low = Math.floor(low * 20) / 20;
  return { low, high: Math.max(low + 0.05, Math.ceil(high * 20 - 1e-6) / 20) };
}

function histogram(shares, { low, high }) {
  const bars = new Array(BARS).fill(0);
  for (const share of shares) {
    if (!Number.isNaN(share)) bars[Math.min(BARS - 1, Math.floor(((share - low) / (high - low)) * BARS))] += 1;
  }
  const most = Math.sqrt(Math.max(...bars));
  const picture = svg("svg", { viewBox: `0 0 ${BARS} 10`, preserveAspectRatio: "none", "aria-hidden": "true" });
  bars.forEach((size, i) => {
    const height = (10 * Math.sqrt(size)) / most; // square root: a few items at the far end are what is looked for
    picture.append(svg("rect", { x: i + 0.1, width: 0.8, y: 10 - height, height }));
  });
  return picture;
}

function rangeField(name) {
  const span = spanOf(items.shares[name]);
  const picture = histogram(items.shares[name], span);
  const slider = (end) =>
    h("input", {
      type: "range",
      id: `${name}-${end}`,
      min: span.low,
      max: span.high,
      step: 0.001,
    });
  const [low, high] = [slider("low"), slider("high")];
  const text = h("output", {});
  const head = h("div", { class: "range-head" }, h("span", {}, RANGE_LABELS[name]), text);
  const ends = h(
    "div",
    { class: "range-ends", "aria-hidden": "true" },
    h("span", {}, percent(span.low, 0)),
    h("span", {}, percent(span.high, 0)),
  );
  const element = h(
    "div",
    { class: "range", "data-share": name },
    head,
    h("div", { class: "range-track" }, picture, low, high),
    ends,
  );
  const changed = oncePerFrame(() => {
    const ranges = { ...query.ranges };
    delete ranges[name];
    const [from, to] = [Number(low.value), Number(high.value)];
    const [bounded, capped] = [from > span.low, to < span.high]; // at its end a slider asks for nothing
    if (bounded || capped) ranges[name] = { low: bounded ? +from.toFixed(4) : 0, high: capped ? +to.toFixed(4) : 1 };
    change({ ranges });
  });
  low.addEventListener("input", () => {
    low.value = Math.min(Number(low.value), Number(high.value));
    changed();
  });
  high.addEventListener("input", () => {
    high.value = Math.max(Number(low.value), Number(high.value));
    changed();
  });
  const show = () => {
    const range = query.ranges[name] ?? { low: 0, high: 1 };
    const [from, to] = [clamp(range.low, span.low, span.high), clamp(range.high, span.low, span.high)];
    [low.value, high.value] = [from, to];
    for (const [input, words, value] of [
      [low, "at least", from],
      [high, "at most", to],
    ]) {
      input.setAttribute("aria-label", `${RANGE_LABELS[name]}, ${words}`);
      input.setAttribute("aria-valuetext", percent(value));
    }
    // both at the right end: the lower one must be the one that can be taken
    low.style.zIndex = from > (span.low + span.high) / 2 ? 2 : 1;
    text.textContent = name in query.ranges ? `${percent(from)} – ${percent(to)}` : "any";
    const at = (bar) => span.low + ((span.high - span.low) * bar) / BARS;
    [...picture.children].forEach((bar, i) => bar.classList.toggle("out", at(i + 1) <= from || at(i) >= to));
  };
  return { element, show };
}
