/* Colours of classes: the schema's, or ones that colour-blind readers can tell apart; and light or dark. */

/* Okabe and Ito, "Color Universal Design", 2008; grey takes the place of black, which a dark page would swallow. */
const OKABE_ITO = [
  [0, 114, 178],
  [230, 159, 0],
  [0, 158, 115],
  [204, 121, 167],
  [86, 180, 233],
  [213, 94, 0],
  [240, 228, 66],
  [120, 120, 120],
];

/* More classes than colours: the same hues again, towards white, then towards black, where lightness tells them apart. */
const RINGS = [0, 0.55, -0.5, 0.78, -0.75];

function safeColors() {
  const pixels = (row) => row.pixels_auto ?? row.pixels_coarse ?? 0;
  const order = summary.classes.map((_, index) => index);
  order.sort((a, b) => pixels(summary.classes[b]) - pixels(summary.classes[a]) || a - b);
  const colors = [];
  order.forEach((index, rank) => {
    const base = OKABE_ITO[rank % OKABE_ITO.length];
    const ring = RINGS[Math.floor(rank / OKABE_ITO.length) % RINGS.length];
    colors[index] = base.map((part) => Math.round(ring < 0 ? part * (1 + ring) : part + (255 - part) * ring));
  });
  return colors;
}

const palettes = { schema: summary.classes.map((row) => row.color), safe: safeColors() };

/* How things are drawn; `version` goes up with each change, so that painted label maps know when they are old. */
const look = { palette: kept.get("palette") === "safe" ? "safe" : "schema", highlight: null, version: 0 };

const colorOf = (index) => palettes[look.palette][index] ?? [128, 128, 128];
const cssColor = (index) => `rgb(${colorOf(index).join(" ")})`;

/* Give a mark its class's colour, and the next palette's when there is another. */
function colored(mark, index) {
  mark.style.setProperty("--class-color", cssColor(index));
  mark.dataset.index = index;
  return mark;
}

const swatch = (index) => colored(h("span", { class: "swatch", "aria-hidden": "true" }), index);

function relook() {
  look.version += 1;
  for (const mark of document.querySelectorAll(".swatch[data-index]")) colored(mark, Number(mark.dataset.index));
  tell("look");
}

function setPalette(name) {
  look.palette = name;
  kept.set("palette", name);
  byId("palette").setAttribute("aria-pressed", String(name === "safe"));
  relook();
}

function setHighlight(index) {
  look.highlight = look.highlight === index ? null : index;
  relook();
  say(look.highlight == null ? "" : `Only ${nameOf(look.highlight)}`);
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  byId("theme").setAttribute("aria-pressed", String(isDark()));
}

function startColors() {
  setTheme(kept.get("theme"));
  setPalette(look.palette);
  systemDark.addEventListener("change", () => setTheme(null));
  byId("palette").addEventListener("click", () => setPalette(look.palette === "safe" ? "schema" : "safe"));
  byId("theme").addEventListener("click", () => {
    const name = isDark() ? "light" : "dark";
    kept.set("theme", name);
    setTheme(name);
  });
}

/* Cividis (Nuñez, Anderton and Renslow, 2018), every 32nd colour: read the same with and without colour vision. */
const CIVIDIS = [
  [0, 34, 78],
  [26, 56, 111],
  [66, 78, 108],
  [95, 99, 110],
  [124, 123, 120],
  [154, 146, 119],
  [187, 173, 109],
  [221, 201, 89],
  [254, 232, 56],
];

function cividis(share) {
  const place = clamp(share, 0, 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return CIVIDIS[low].map((part, axis) => Math.round(part + (CIVIDIS[low + 1][axis] - part) * (place - low)));
}
