/* Charts as inline SVG, drawn to the width that they get: text keeps its size on a phone and on a wall. */

/* Draw now, and again whenever the width changes. */
function chart(label, paint) {
  const box = h("div", { class: "chart" });
  let drawn = 0;
  const redraw = () => {
    const width = Math.floor(box.clientWidth);
    if (width < 40 || width === drawn) return;
    drawn = width;
    const { height, marks } = paint(width);
    box.replaceChildren(
      svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, marks),
    );
  };
  new ResizeObserver(oncePerFrame(redraw)).observe(box);
  return box;
}

const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
const text = (x, y, content, kind = "", anchor = "start") =>
  svg("text", { x, y, class: kind, "text-anchor": anchor }, content);
const titled = (mark, words) => (mark.append(svg("title", {}, words)), mark);

function shorten(name, room) {
  const letters = Math.max(3, Math.floor(room / 6.6));
  return name.length > letters ? `${name.slice(0, letters - 1)}…` : name;
}

const hasBefore = summary.classes.some((row) => row.pixels_coarse != null);
const SERIES = [
  { id: "coarse", label: "coarse, before", value: (row) => row.pixels_coarse },
  { id: "auto", label: hasBefore ? "auto, after" : "auto", value: (row) => row.pixels_auto },
  { id: "merged", label: hasBefore ? "merged, after" : "merged", value: (row) => row.pixels_merged },
];

const seriesKnown = () => SERIES.filter(({ value }) => summary.classes.some((row) => value(row) != null));

function seriesMark(id, x, y) {
  if (id === "coarse") return svg("circle", { cx: x, cy: y, r: 4.5, class: "mark coarse" });
  if (id === "merged")
    return svg("rect", {
      x: x - 4,
      y: y - 4,
      width: 8,
      height: 8,
      transform: `rotate(45 ${x} ${y})`,
      class: "mark merged",
    });
  return svg("circle", { cx: x, cy: y, r: 5, class: "mark auto" });
}

/* How many times more pixels than before, for people. */
function gainOf(row) {
  const after = row.pixels_merged ?? row.pixels_auto;
  if (row.pixels_coarse == null || after == null || (!row.pixels_coarse && !after)) return "";
  if (!row.pixels_coarse) return "new";
  const gain = after / row.pixels_coarse;
  if (gain < 0.01) return "< ×0.01";
  return `×${gain >= 100 ? count(Math.round(gain)) : gain >= 10 ? gain.toFixed(1) : gain.toFixed(2)}`;
}

/* Pixels of each class before and after, most first, on a logarithmic scale. */
function longTail() {
  const series = seriesKnown();
  const most = (row) => Math.max(...series.map(({ value }) => value(row) ?? 0));
  const rows = [...summary.classes].sort(
    (a, b) => (b.pixels_coarse ?? most(b)) - (a.pixels_coarse ?? most(a)) || most(b) - most(a),
  );
  const known = rows.flatMap((row) => series.map(({ value }) => value(row))).filter((pixels) => pixels > 0);
  const [low, high] = known.length
    ? [Math.floor(Math.log10(Math.min(...known))), Math.ceil(Math.log10(Math.max(...known)) + 0.02)]
    : [0, 1];
  const words = rows.map(
    (row) => `${row.name}: ${series.map(({ label, value }) => `${count(value(row))} ${label}`).join(", ")}`,
  );
  return chart(`Pixels per class, logarithmic. ${words.join("; ")}`, (width) => {
    const [left, right, top, step] = [clamp(width * 0.2, 106, 190), 58, 26, 24];
    const base = left + 14; // room for "none" left of the axis
    const x = (pixels) =>
      pixels > 0 ? base + ((Math.log10(pixels) - low) / (high - low)) * (width - base - right) : left + 4;
    const height = top + rows.length * step + 4;
    const marks = [];
    const every = Math.ceil(((high - low) * 46) / (width - base - right));
    for (let power = low; power <= high; power += every) {
      const at = x(10 ** power);
      marks.push(
        line(at, top - 6, at, height, "gridline"),
        text(at, 12, count(10 ** power).replace(/\.0+/, ""), "tick", "middle"),
      );
    }
    rows.forEach((row, i) => {
      const y = top + i * step + step / 2;
      const values = series.map(({ id, value }) => [id, value(row)]).filter(([, value]) => value != null);
      const places = values.map(([, value]) => x(value));
      const from = hasBefore ? Math.min(...places) : base;
      const group = svg("g", {}, svg("rect", { x: 0, y: y - step / 2, width, height: step, class: "row" }));
      const color = svg("rect", { x: 0, y: y - 7, rx: 3, class: "swatch" });
      colored(color, summary.classes.indexOf(row));
      group.append(
        color,
        text(22, y + 4, shorten(row.name, left - 28), "label"),
        line(from, y, Math.max(...places), y, "between"),
      );
      values.forEach(([id, value], k) =>
        group.append(value > 0 ? seriesMark(id, places[k], y) : text(places[k], y + 4, "0", "tick zero", "middle")),
      );
      group.append(text(width - 4, y + 4, gainOf(row), "gain", "end"));
      marks.push(titled(group, words[i]));
    });
    return { height, marks };
  });
}

/* Round shares from low to high, no more than `most` steps. */
function ticks(low, high, most) {
  const step = [0.02, 0.05, 0.1, 0.2, 0.25, 0.5].find((size) => (high - low) / size <= most + 1e-9) ?? 1;
  const made = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i += 1) made.push(i * step);
  return made;
}

/* The frame of a chart of shares against shares. */
function shareFrame(width, height, [x0, x1], [y0, y1], [xLabel, yLabel]) {
  const area = { left: 44, right: width - 10, top: 8, bottom: height - 34 };
  const x = (value) => area.left + ((value - x0) / (x1 - x0)) * (area.right - area.left);
  const y = (value) => area.bottom - ((value - y0) / (y1 - y0)) * (area.bottom - area.top);
  const marks = [];
  for (const share of ticks(y0, y1, height < 200 ? 4 : 6)) {
    marks.push(line(area.left, y(share), area.right, y(share), "gridline"));
    marks.push(text(area.left - 6, y(share) + 4, `${Math.round(100 * share)}`, "tick", "end"));
  }
  for (const share of ticks(x0, x1, width < 260 ? 4 : 6)) {
    marks.push(text(x(share), area.bottom + 15, `${Math.round(100 * share)}`, "tick", "middle"));
  }
  marks.push(text((area.left + area.right) / 2, height - 4, xLabel, "axis", "middle"));
  marks.push(
    svg(
      "text",
      {
        class: "axis",
        "text-anchor": "middle",
        transform: `translate(10 ${(area.top + area.bottom) / 2}) rotate(-90)`,
      },
      yLabel,
    ),
  );
  return { x, y, marks, area };
}

/* Lowest precision that any curve shows, rounded down: one scale for all classes, so that they can be compared. */
function precisionFloor() {
  const lows = summary.curves
    .flatMap(({ points }) => points.map(({ precision }) => precision))
    .filter((value) => value != null);
  return lows.length ? Math.min(0.9, Math.floor(Math.min(...lows) * 10) / 10) : 0;
}

/* The point whose threshold is the class's own. */
function chosenPoint({ class_index: index, points }) {
  const { threshold } = summary.classes[index];
  if (threshold == null || !points.length) return null;
  return points.reduce((best, point) =>
    Math.abs(point.threshold - threshold) < Math.abs(best.threshold - threshold) ? point : best,
  );
}

function curveChart(curve) {
  const floor = precisionFloor();
  const points = curve.points.filter(({ precision }) => precision != null);
  const row = summary.classes[curve.class_index];
  const chosen = chosenPoint({ ...curve, points });
  const readout = h("output", { class: "readout" });
  const describe = (point) =>
    `> ${point.threshold.toFixed(2)}: ${percent(point.precision)} right, ${percent(point.coverage)} covered`;
  const rest = () => (readout.textContent = chosen ? describe(chosen) : points.length ? "" : "nothing to judge");
  const drawing = chart(
    `${row.name}: precision against coverage. ${points.map((point) => describe(point)).join("; ")}`,
    (width) => {
      const height = 150;
      const { x, y, marks } = shareFrame(width, height, [0, 1], [floor, 1], ["covered, %", "right, %"]);
      const at = (point, value) => `${x(point.coverage).toFixed(1)},${y(Math.max(floor, value)).toFixed(1)}`;
      const band = points.filter(({ low, high }) => low != null && high != null);
      const around = [
        ...band.map((point) => at(point, point.high)),
        ...band.map((point) => at(point, point.low)).reverse(),
      ];
      if (band.length > 1) marks.push(svg("polygon", { points: around.join(" "), class: "band" }));
      marks.push(
        svg("polyline", { points: points.map((point) => at(point, point.precision)).join(" "), class: "curve" }),
      );
      for (const point of points)
        marks.push(svg("circle", { cx: x(point.coverage), cy: y(point.precision), r: 1.6, class: "dot" }));
      if (chosen) marks.push(svg("circle", { cx: x(chosen.coverage), cy: y(chosen.precision), r: 5, class: "chosen" }));
      const here = svg("circle", { r: 4, class: "here", visibility: "hidden" });
      const glass = svg("rect", { x: 0, y: 0, width, height, class: "glass" });
      glass.addEventListener("pointermove", (event) => {
        const box = glass.getBoundingClientRect();
        const away = (point) =>
          Math.hypot(x(point.coverage) - (event.clientX - box.left), y(point.precision) - (event.clientY - box.top));
        const point = points.reduce((best, other) => (away(other) < away(best) ? other : best), points[0]);
        if (!point) return;
        here.setAttribute("visibility", "visible");
        here.setAttribute("cx", x(point.coverage));
        here.setAttribute("cy", y(point.precision));
        readout.textContent = describe(point);
      });
      glass.addEventListener("pointerleave", () => (here.setAttribute("visibility", "hidden"), rest()));
      return { height, marks: [...marks, here, glass] };
    },
  );
  rest();
  return h(
    "figure",
    { class: "curve-box" },
    h("figcaption", {}, swatch(curve.class_index), h("span", {}, row.name)),
    drawing,
    readout,
  );
}

function reliabilityChart() {
  const bins = summary.reliability.filter(({ pixels }) => pixels > 0);
  const all = bins.reduce((sum, { pixels }) => sum + pixels, 0);
  const low = Math.min(
    0.9,
    Math.floor(Math.min(...bins.flatMap(({ confidence, right }) => [confidence, right])) * 10) / 10,
  );
  const words = bins.map(
    ({ confidence, right, pixels }) =>
      `sure ${percent(confidence)}, right ${percent(right)}, ${percent(pixels / all)} of pixels`,
  );
  return chart(`Reliability. ${words.join("; ")}`, (width) => {
    const height = Math.round(clamp(width * 0.62, 200, 360));
    const { x, y, marks } = shareFrame(width, height, [low, 1], [low, 1], ["confidence, %", "right, %"]);
    marks.push(line(x(low), y(low), x(1), y(1), "diagonal"));
    marks.push(
      svg("polyline", {
        points: bins.map(({ confidence, right }) => `${x(confidence)},${y(right)}`).join(" "),
        class: "curve",
      }),
    );
    bins.forEach(({ confidence, right, pixels }, i) => {
      marks.push(line(x(confidence), y(confidence), x(confidence), y(right), "gap"));
      marks.push(
        titled(
          svg("circle", { cx: x(confidence), cy: y(right), r: 3 + 7 * Math.sqrt(pixels / all), class: "bin" }),
          words[i],
        ),
      );
    });
    return { height, marks };
  });
}

function confidenceChart() {
  const bins = summary.confidence_histogram;
  const all = bins.reduce((sum, size) => sum + size, 0) || 1;
  const shares = bins.map((size) => size / all);
  const low = -5; // a share below 0.001 % is drawn as none
  const up = (share) => clamp((Math.log10(share) - low) / -low, 0, 1);
  const range = (i) => `${percent(i / bins.length, 0)} to ${percent((i + 1) / bins.length, 0)}`;
  const words = shares.map((share, i) => `${range(i)}: ${percent(share, 3)}`);
  return chart(`Share of pixels by confidence, logarithmic. ${words.join("; ")}`, (width) => {
    const height = Math.round(clamp(width * 0.62, 200, 360));
    const area = { left: 52, right: width - 10, top: 8, bottom: height - 34 };
    const y = (share) => area.bottom - up(share) * (area.bottom - area.top);
    const step = (area.right - area.left) / bins.length;
    const marks = [];
    for (let power = low + 1; power <= 0; power += 1) {
      marks.push(
        line(area.left, y(10 ** power), area.right, y(10 ** power), "gridline"),
        text(area.left - 6, y(10 ** power) + 4, `${+(100 * 10 ** power).toPrecision(1)} %`, "tick", "end"),
      );
    }
    shares.forEach((share, i) => {
      const bar = svg("rect", {
        x: area.left + i * step + 1,
        width: Math.max(1, step - 2),
        y: y(share),
        height: Math.max(0, area.bottom - y(share)),
        class: "bar-mark",
      });
      marks.push(titled(bar, words[i]));
    });
    for (let i = 0; i <= 4; i += 1)
      marks.push(text(area.left + ((area.right - area.left) * i) / 4, area.bottom + 15, `${25 * i}`, "tick", "middle"));
    marks.push(text((area.left + area.right) / 2, height - 4, "confidence, %", "axis", "middle"));
    return { height, marks };
  });
}

/* Where in the images there are labels: a heat map on a canvas, whose value under the pointer is told. */
function coverageMap() {
  const rows = summary.coverage_map;
  const [high, wide] = [rows.length, rows[0].length];
  const known = rows.flat().filter((share) => share != null);
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const floor = most - least < 0.02 ? Math.max(0, most - 0.02) : least; // no drama where all is the same
  const label = `Share of images with a label at each place, from ${percent(least)} to ${percent(most)}`;
  const canvas = h("canvas", { width: wide, height: high, class: "heat", role: "img", "aria-label": label });
  const picture = new ImageData(wide, high);
  rows.flat().forEach((share, i) => {
    if (share != null) picture.data.set([...cividis((share - floor) / (most - floor || 1)), 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  const readout = h("output", { class: "readout" });
  canvas.addEventListener("pointermove", (event) => {
    const column = clamp(Math.floor((event.offsetX / canvas.clientWidth) * wide), 0, wide - 1);
    const row = clamp(Math.floor((event.offsetY / canvas.clientHeight) * high), 0, high - 1);
    const share = rows[row][column];
    readout.textContent =
      share == null ? "no image reaches there" : `${percent(share)} of the images have a label here`;
  });
  canvas.addEventListener("pointerleave", () => (readout.textContent = ""));
  const scale = h("canvas", { width: 128, height: 1, class: "heat-scale", "aria-hidden": "true" });
  const ramp = new ImageData(128, 1);
  for (let i = 0; i < 128; i += 1) ramp.data.set([...cividis(i / 127), 255], 4 * i);
  scale.getContext("2d").putImageData(ramp, 0, 0);
  const box = h(
    "div",
    {},
    canvas,
    h("div", { class: "heat-legend" }, h("span", {}, percent(floor)), scale, h("span", {}, percent(most))),
    readout,
  );
  box.style.maxWidth = `${Math.round((360 * wide) / high)}px`;
  return box;
}
