"""How long a reader waits for the report of a large run: measured in the browser, on generated items.

Writes a report of 20,000 items with thumbnails of label maps like a teacher's (see teacher_like.py; a few hundred
different ones, repeated) to a temporary folder, and opens it from there in a headless Chromium, each time in a fresh
process of the page. Times are the page's own clock, `performance.now()`, to the frame after which what was asked for
is on the screen: opening counts from the start of navigation to the first screenful of pictures in the gallery; a
filter, an order and a jump count from the event to the frame that shows the new cards, and, in the second column, to
the last of their pictures, whose files are read from the folder then.

    python benchmarks/report_browser.py [--items 20000] [--repeats 9]
"""

import argparse
import io
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from teacher_like import CLASSES, teacher_like

from pipeline.report_form import (
    THUMBS_PER_FILE,
    Bytes,
    ClassRow,
    Counts,
    ItemColumns,
    Layer,
    State,
    Summary,
    Thumb,
    embedded,
    packed,
)
from pipeline.report_rendering import ITEMS_PATH, items_script, page, thumbs_path, thumbs_script

SIZE = (160, 320)
DIFFERENT = 200
"""Thumbnails that are made; more items than these repeat them."""

AIMS = {"open the gallery": 3000, "others": 200}
"""Milliseconds."""

OPEN = """
const done = arguments[0];
const seen = () => {
  const cards = [...document.querySelectorAll(".cell")].filter((c) => c.getBoundingClientRect().top < innerHeight);
  if (cards.length && cards.every((c) => c.querySelector("canvas"))) {
    requestAnimationFrame(() => setTimeout(() => done([performance.now(), performance.now()])));
  } else requestAnimationFrame(seen);
};
seen();
"""

STEP = """
const [act, done] = arguments;
const start = performance.now();
let shown = 0;
const drawn = () => {
  const now = performance.now();
  const cards = [...document.querySelectorAll(".cell")].filter((c) => {
    const box = c.getBoundingClientRect();
    return box.top < innerHeight && box.bottom > 0;
  });
  if (!shown && cards.length) shown = now;
  if (cards.length && cards.every((c) => c.querySelector("canvas"))) done([shown - start, now - start]);
  else requestAnimationFrame(() => setTimeout(drawn));
};
new Function(act)();
requestAnimationFrame(() => setTimeout(drawn)); // after the frame's paint
"""

SET = """
const e = document.querySelector("{0}"); e.value = {1};
for (const n of ["input", "change"]) e.dispatchEvent(new Event(n, {{ bubbles: true }}));
"""

STEPS = {
    "filter by class": "document.querySelector('#has-17').click()",
    "filter by folder": SET.format("#folder", "3"),
    "filter by ignored share": SET.format("#ignore-low", "0.2"),
    "search a key": SET.format("#filter-text", "'77'"),
    "order by confidence": SET.format("#sort", "'confidence'"),
    "scroll by a screen": "scrollBy(0, innerHeight)",
    "jump to the middle": "scrollTo(0, document.documentElement.scrollHeight / 2)",
    "colours of one class": "document.querySelector('.legend .class-name').click()",
}


def write_report(folder: Path, count: int) -> None:
    """Write a report of so many items."""
    rng = np.random.default_rng(0)
    thumbs = [make_thumb(number, rng) for number in range(DIFFERENT)]
    (folder / "data").mkdir()
    (folder / "index.html").write_text(page(make_summary(count)), "utf-8")
    (folder / ITEMS_PATH).write_text(items_script(make_columns(count, rng), CLASSES), "utf-8")
    for first in range(0, count, THUMBS_PER_FILE):
        numbers = range(first, min(count, first + THUMBS_PER_FILE))
        script = thumbs_script(first, [thumbs[number % DIFFERENT] for number in numbers])
        (folder / thumbs_path(first // THUMBS_PER_FILE)).write_text(script, "utf-8")


def make_thumb(number: int, rng: np.random.Generator) -> Thumb:
    """A thumbnail with three layers."""
    labels = teacher_like(number, SIZE, 0.7)
    pixels = rng.integers(0, 255, (CLASSES + 1, 3), np.uint8)[np.minimum(labels, CLASSES)]
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=80)
    coarse = np.where(np.indices(SIZE)[0] % 5 == 0, 255, labels).astype(np.uint8)
    maps: dict[Layer, str] = {"coarse": packed(coarse), "auto": packed(labels), "merged": packed(labels)}
    return Thumb(SIZE[1], SIZE[0], embedded(content.getvalue()), maps)


def make_columns(count: int, rng: np.random.Generator) -> ItemColumns:
    """Items in 40 folders; the worst have their thumbnails first, as in a report of a run."""
    shares = rng.beta(1.5, 9, (3, count))
    shares[0] = -np.sort(-shares[0])
    disagreement, ignore, unsure = (tuple(row.tolist()) for row in shares)
    done: State = "done"
    present = rng.random((count, CLASSES)) < np.linspace(0.95, 0.05, CLASSES)
    return ItemColumns(
        key=tuple(f"town_{n % 40:02}/town_{n % 40:02}_{n:06}_000019_leftImg8bit" for n in range(count)),
        folders=tuple(f"town_{n:02}" for n in range(40)),
        folder=tuple(n % 40 for n in range(count)),
        width=(2048,) * count,
        height=(1024,) * count,
        state=(done,) * count,
        reviewed=(False,) * count,
        ignore=ignore,
        confidence=tuple(1 - share for share in unsure),
        disagreement=disagreement,
        error=(None,) * count,
        classes=tuple(tuple(np.flatnonzero(row).tolist()) for row in present),
        thumb=tuple(range(count)),
    )


def make_summary(count: int) -> Summary:
    """What the overview shows of it."""
    rows = tuple(ClassRow(f"class {n}", (10 * n, 90, 255 - 10 * n), 10**9 >> n, 10**8 >> n) for n in range(CLASSES))
    return Summary("generated", (), rows, Counts(count), Bytes(1, 2, 3), ("coarse", "auto", "merged"))


def start_browser() -> webdriver.Chrome:
    """A headless Chromium of a laptop's size."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,800")
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def measure(index: Path, repeats: int) -> dict[str, list[list[float]]]:
    """Milliseconds to the first frame and to the last picture, of each step, as often as asked."""
    times: dict[str, list[list[float]]] = {"open the gallery": [], **{step: [] for step in STEPS}}
    driver = start_browser()
    try:
        driver.set_script_timeout(120)
        for _ in range(repeats):
            for step, act in STEPS.items():
                driver.get("about:blank")
                driver.get(f"{index.as_uri()}#view=gallery")
                opened = driver.execute_async_script(OPEN)
                if step == next(iter(STEPS)):
                    times["open the gallery"].append(opened)
                times[step].append(driver.execute_async_script(STEP, act))
        print(driver.capabilities["browserName"], driver.capabilities["browserVersion"])
    finally:
        driver.quit()
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_report(folder, arguments.items)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        table = (folder / ITEMS_PATH).stat().st_size
        print(f"{arguments.items} items, {size / 1e6:.0f} MB, of them the table {table / 1e6:.1f} MB")
        times = measure(folder / "index.html", arguments.repeats)
    print("| what | shown, ms | all pictures, ms | aim, ms |\n|---|---|---|---|")
    for what, rows in times.items():
        shown, complete = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {what} | {shown:.0f} | {complete:.0f} | {AIMS.get(what, AIMS['others'])} |")


if __name__ == "__main__":
    main()
