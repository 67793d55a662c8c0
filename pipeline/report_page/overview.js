/* The overview: figures, classes, quality, how it was made, what failed. */

function tile(label, value, detail, extra) {
  return h(
    "div",
    { class: "tile" },
    h("h2", {}, label),
    h("p", { class: "value" }, value),
    h("p", { class: "detail" }, detail),
    extra,
  );
}

function meter(share, label) {
  const bar = h("span", {});
  bar.style.width = percent(clamp(share, 0, 1));
  return h("div", { class: share > 1 ? "meter over" : "meter", role: "img", "aria-label": label }, bar);
}

const interval = (low, high) => (low == null || high == null ? "" : `${percent(low)} – ${percent(high)}`);

function tiles() {
  const { counts, bytes: size } = summary;
  const total = counts.done + counts.failed + counts.left;
  const states = [
    counts.failed && `${count(counts.failed)} failed`,
    counts.left && `${count(counts.left)} left`,
    counts.reviewed && `${count(counts.reviewed)} reviewed`,
  ].filter(Boolean);
  const made = [
    tile(
      "Images labelled",
      count(counts.done),
      states.join(" · ") || "all of them",
      total && counts.done < total ? meter(counts.done / total, `${percent(counts.done / total)} done`) : null,
    ),
  ];
  if (summary.labelled != null)
    made.push(
      tile(
        "Pixels with a class",
        percent(summary.labelled),
        "the rest is ignore",
        meter(summary.labelled, `${percent(summary.labelled)} labelled`),
      ),
    );
  if (summary.precision != null)
    made.push(
      tile(
        "Precision",
        percent(summary.precision),
        interval(summary.precision_low, summary.precision_high) || "of the pixels with a class",
      ),
    );
  if (summary.coverage != null)
    made.push(tile("Coverage", percent(summary.coverage), "of pixels whose class is known were given one"));
  const budget =
    size.budget == null
      ? `labels ${bytes(size.labels)}${size.soft ? `, confidence ${bytes(size.soft)}` : ""}`
      : `of ${bytes(size.budget)} allowed`;
  const smaller =
    size.soft_fp32 && size.total
      ? ` · ${Math.round(size.soft_fp32 / size.total)}× smaller than 32-bit probabilities`
      : "";
  made.push(
    tile(
      "On disk",
      bytes(size.total),
      budget + smaller,
      size.budget == null
        ? null
        : meter(size.total / size.budget, `${percent(size.total / size.budget)} of the budget`),
    ),
  );
  if (summary.seconds != null || summary.images_per_second != null) {
    const rate = summary.images_per_second;
    const speed =
      rate == null ? "" : rate >= 1 ? `${rate.toFixed(1)} images a second` : `${(1 / rate).toFixed(1)} s an image`;
    made.push(
      tile(
        "Time of labelling",
        summary.seconds == null ? speed : duration(summary.seconds),
        summary.seconds == null ? "" : speed,
      ),
    );
  }
  return h("div", { class: "tiles" }, made);
}

function panel(title, lead, ...content) {
  return h("section", { class: "panel" }, h("h2", {}, title), lead && h("p", { class: "lead" }, lead), content);
}

function seriesLegend() {
  return h(
    "p",
    { class: "series" },
    seriesKnown().map(({ id, label }) =>
      h("span", {}, svg("svg", { width: 14, height: 14, "aria-hidden": "true" }, seriesMark(id, 7, 7)), label),
    ),
  );
}

/* What gets a row a class: where classes are many it scrolls within itself, or the page would never end. */
function tallBox(label, content) {
  const kind = summary.classes.length > 40 ? "scroll tall" : "scroll";
  return h("div", { class: kind, tabindex: 0, role: "region", "aria-label": label }, content);
}

/* A share with its interval, drawn on one scale for the whole column. */
function intervalBar(row, floor) {
  if (row.precision == null) return h("td", { class: "number" }, NO_VALUE);
  const x = (share) => 100 * clamp((share - floor) / (1 - floor), 0, 1);
  const picture = svg("svg", {
    class: "interval",
    viewBox: "0 0 100 12",
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  if (row.precision_low != null && row.precision_high != null) {
    picture.append(
      svg("rect", {
        x: x(row.precision_low),
        width: Math.max(1, x(row.precision_high) - x(row.precision_low)),
        y: 3,
        height: 6,
        class: "span",
      }),
    );
  }
  picture.append(svg("rect", { x: x(row.precision) - 0.8, width: 1.6, y: 0, height: 12, class: "middle" }));
  return h(
    "td",
    {
      class: "precision",
      title:
        interval(row.precision_low, row.precision_high) &&
        `95 % interval ${interval(row.precision_low, row.precision_high)}`,
    },
    h("span", {}, percent(row.precision)),
    picture,
  );
}

function classColumns() {
  const known = (value) => summary.classes.some((row) => value(row) != null);
  const floor =
    Math.floor(10 * Math.min(0.9, ...summary.classes.map((row) => row.precision_low ?? row.precision ?? 1))) / 10;
  const number = (text) => h("td", { class: "number" }, text);
  const gain = (row) => (row.pixels_coarse ? (row.pixels_merged ?? row.pixels_auto) / row.pixels_coarse : null);
  return [
    ...seriesKnown().map(({ id, value }) => ({
      label: `${LAYER_LABELS[id]}, pixels`,
      value,
      cell: (row) => number(count(value(row))),
    })),
    known(gain) && { label: "Gain", value: gain, cell: (row) => number(gainOf(row) || NO_VALUE) },
    known((row) => row.precision) && {
      label: "Precision",
      value: (row) => row.precision,
      cell: (row) => intervalBar(row, floor),
    },
    known((row) => row.coverage) && {
      label: "Coverage",
      value: (row) => row.coverage,
      cell: (row) => number(percent(row.coverage)),
    },
    known((row) => row.threshold) && {
      label: "Threshold",
      value: (row) => row.threshold,
      cell: (row) => number(row.threshold == null ? NO_VALUE : row.threshold.toFixed(3)),
    },
  ].filter(Boolean);
}

/* The same figures to be read, each column to be sorted by. */
function classTableOf() {
  const columns = classColumns();
  const order = summary.classes.map((_, index) => index);
  const body = h("tbody");
  const write = () =>
    body.replaceChildren(
      ...order.map((index) => {
        const row = summary.classes[index];
        const name = h(
          "button",
          { type: "button", class: "class-name", title: `Images with ${row.name}` },
          swatch(index),
          h("span", {}, row.name),
        );
        name.addEventListener("click", () => items.key && openGallery({ classes: [index] }));
        return h(
          "tr",
          {},
          h("th", { scope: "row" }, name),
          columns.map(({ cell }) => cell(row)),
        );
      }),
    );
  const heads = [{ label: "Class", value: (row) => -summary.classes.indexOf(row) }, ...columns].map(
    ({ label, value }) => {
      const button = h("button", { type: "button" }, label);
      const head = h("th", { scope: "col", "aria-sort": "none" }, button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending";
        for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (index) => value(summary.classes[index]) ?? -Infinity;
        order.sort((a, b) => (up ? 1 : -1) * (key(a) - key(b) || b - a) || a - b);
        write();
      });
      return head;
    },
  );
  write();
  return tallBox("Figures of the classes", h("table", { class: "classes" }, h("thead", {}, h("tr", {}, heads)), body));
}

function quality() {
  const made = [];
  if (summary.reliability.length) {
    const ece = summary.ece == null ? "" : ` Expected calibration error: ${percent(summary.ece, 2)}.`;
    made.push(
      panel(
        "Is it as sure as it is right?",
        `On the diagonal confidence tells the truth; larger dots hold more pixels.${ece}`,
        reliabilityChart(),
      ),
    );
  }
  if (summary.confidence_histogram.some((size) => size > 0))
    made.push(panel("How sure it is", "Share of the pixels by confidence, on a logarithmic scale.", confidenceChart()));
  if (summary.coverage_map.flat().some((share) => share != null))
    made.push(panel("Where labels are", "Share of the images that have a class at each place.", coverageMap()));
  return h("div", { class: "three" }, made);
}

function curves() {
  if (!summary.curves.length) return null;
  const marked = summary.curves.some((curve) => chosenPoint(curve)) ? "The ring marks the threshold in use; " : "";
  return panel(
    "Precision against coverage",
    `What other thresholds would give. ${marked}the band is the 95 % interval.`,
    h("div", { class: "curves" }, summary.curves.map(curveChart)),
  );
}

function failures() {
  const { failures: some, counts } = summary;
  if (!counts.failed) return null;
  const rows = some.map(({ key, reason }) => {
    const link = h("button", { type: "button", class: "link" }, h("bdi", {}, key));
    link.addEventListener("click", () => items.key && openItem(key));
    return h("tr", {}, h("th", { scope: "row" }, link), h("td", {}, reason));
  });
  const more = counts.failed > some.length ? `The first ${count(some.length)} of ${count(counts.failed)}.` : null;
  return panel(
    `Failed: ${count(counts.failed)}`,
    more,
    h(
      "div",
      { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Failures" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Key"), h("th", { scope: "col" }, "Why"))),
        h("tbody", {}, rows),
      ),
    ),
  );
}

/* What was made with what: in short, and in full where that is asked for. */
function provenance() {
  const rows = summary.made.flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]);
  const short = summary.made.filter(([, value]) => value.length < 40).map(([label, value]) => `${label} ${value}`);
  const plots = summary.plots.map(({ path, label }) => h("li", {}, h("a", { href: path }, label)));
  return h(
    "details",
    { class: "panel provenance" },
    h("summary", {}, h("strong", {}, "Made with"), h("span", { class: "short" }, short.join(" · "))),
    h("dl", { class: "made" }, rows),
    plots.length ? [h("h3", {}, "Plots to download"), h("ul", { class: "plots" }, plots)] : [],
  );
}

function buildOverview() {
  const source = summary.precision_source;
  const notes = summary.notes.map((note) => h("li", {}, note));
  byId("overview").append(
    provenance(),
    tiles(),
    notes.length
      ? h("section", { class: "panel notes" }, h("h2", {}, "To know before judging"), h("ul", {}, notes))
      : "",
    failures() ?? "",
    worst.element,
    panel(
      hasBefore ? "Pixels per class, before and after" : "Pixels per class",
      "Rare classes count: the scale is logarithmic.",
      seriesLegend(),
      tallBox("Pixels per class", longTail()),
    ),
    panel("Classes", source || null, classTableOf()),
    curves() ?? "",
    quality(),
  );
}
