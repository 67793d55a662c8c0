/* Helpers that everything else stands on: the summary, elements, numbers for people, and who hears of a change. */

const summary = JSON.parse(document.getElementById("summary").textContent);
const IGNORE = 255;
const NO_VALUE = "–";

const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const phone = matchMedia("(max-width: 760px)");

/* Elements are only ever made here, and text only ever becomes text nodes: keys and class names may hold markup. */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/* Numbers for people. */
const whole = new Intl.NumberFormat("en");

function count(value) {
  if (value == null) return NO_VALUE;
  if (value < 100000) return whole.format(value);
  const power = value >= 1e9 ? 3 : value >= 1e6 ? 2 : 1;
  const scaled = value / 1000 ** power;
  return `${scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0)} ${["", "k", "M", "G"][power]}`;
}

function bytes(value) {
  if (value == null) return NO_VALUE;
  let power = 0;
  while (value >= 1000 && power < 4) {
    value /= 1000;
    power += 1;
  }
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

function percent(share, digits = 1) {
  if (share == null || Number.isNaN(share)) return NO_VALUE;
  return `${(100 * share).toFixed(digits)} %`;
}

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const folderName = (name) => (name === "" || name === "." ? "(top folder)" : name);
const nameOf = (index) => (index === IGNORE ? "ignore" : (summary.classes[index]?.name ?? `class ${index}`));

/* Who hears of what: "query" – other items match; "look" – the same items are drawn otherwise. */
const listeners = { query: [], look: [] };
const when = (change, listener) => listeners[change].push(listener);
const tell = (change) => listeners[change].forEach((listener) => listener());

/* Several changes within one frame are drawn once. */
function oncePerFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

let sayTimer = 0;

function say(text) {
  byId("status").textContent = text;
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => {
    byId("status").textContent = "";
  }, 2500);
}

/* What a reader chose last time; a page from a folder may not be allowed to keep it. */
const kept = {
  get(name) {
    try {
      return localStorage.getItem(`autocoarse-${name}`);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`autocoarse-${name}`, value);
    } catch {
      /* it is chosen again next time */
    }
  },
};
