"""The report's page as a reader meets it, in a real browser and from a folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Page
from tests.browser.sample_report import (
    CLASSES,
    FAILED,
    HOSTILE_CLASS,
    HOSTILE_KEY,
    ITEMS,
    SIZE,
    WITHOUT_COARSE,
    make_columns,
)

WINDOWS = {"phone": (390, 844), "laptop": (1280, 800), "large": (2560, 1440)}
GALLERY = "#view=gallery"
CARD_DRAWN = "return document.querySelector('.card canvas') !== null"
STAGE_DRAWN = "return document.querySelector('#viewer[open] .picture:not([hidden])') !== null"


def item_address(place: int, more: str = "") -> str:
    """Part of an address that opens an item of the sample."""
    return f"{GALLERY}&item={make_columns().key[place].replace('/', '%2F').replace(' ', '+')}{more}"


@pytest.mark.parametrize("size", WINDOWS.values(), ids=WINDOWS.keys())
def test_every_part_fits_the_window(report: Page, size: tuple[int, int]) -> None:
    """Overview, gallery and large view show what they hold in a window of any size, without a sideways scroll."""
    report.open(size=size)
    assert [tile.text for tile in report.driver.find_elements("css selector", ".tile h2")] == [
        "Images labelled",
        "Pixels with a class",
        "Precision",
        "Coverage",
        "On disk",
        "Time of labelling",
    ]
    charts = "[...document.querySelectorAll('.chart svg[role=img][aria-label]')]"
    report.until(f"return {charts}.filter((s) => s.getBoundingClientRect().width > 100).length === 6")
    wide = "return Math.max(0, document.documentElement.scrollWidth - innerWidth)"
    assert report.run(wide) == 0
    report.press("g")
    report.until(CARD_DRAWN)
    assert report.run(wide) == 0
    report.press(Keys.ARROW_DOWN, Keys.ENTER)
    report.until(STAGE_DRAWN)
    box = report.run("return document.querySelector('.picture').getBoundingClientRect().toJSON()")
    assert 0 <= box["left"] < box["right"] <= size[0]
    assert 0 <= box["top"] < box["bottom"] <= size[1]
    assert box["width"] / box["height"] == pytest.approx(SIZE[1] / SIZE[0], rel=0.02)
    assert report.run(wide) == 0


def test_filters_find_what_the_table_holds(report: Page) -> None:
    """Each filter, alone and with others, gives the number of images that the table of items says."""
    columns = make_columns()
    report.open(GALLERY)
    assert report.found() == ITEMS
    report.one("#has-2").click()
    poles = [n for n in range(ITEMS) if 2 in columns.classes[n]]
    assert report.found() == len(poles)
    report.set_value("#folder", "1")
    assert report.found() == len([n for n in poles if columns.folder[n] == 1])
    report.one("#reset").click()
    report.set_value("#ignore-low", 0.3)
    assert report.found() == len([share for share in columns.ignore if share is not None and share >= 0.3])
    report.set_value("#error-high", 0.2)
    both = [n for n in range(ITEMS) if (columns.ignore[n] or 0) >= 0.3 and (columns.error[n] or 1) <= 0.2]
    assert report.found() == len(both)
    report.one("#reset").click()
    report.set_value("#state", "f")
    assert report.found() == 1
    assert report.one(".card").text.splitlines()[0] == f"image {FAILED:03}"
    report.set_value("#state", "r")
    assert report.found() == 2
    report.one("#reset").click()
    report.set_value("#filter-text", "IMAGE 12")
    assert report.found() == len([key for key in columns.key if "12" in key])
    report.set_value("#filter-text", "nowhere")
    assert report.one("#nothing").is_displayed()
    report.one("#nothing-reset").click()
    assert report.found() == ITEMS


def test_worst_come_first(report: Page) -> None:
    """The first N of an order are kept, what is not known comes last, and the order can be turned round."""
    report.open(GALLERY)
    cards = (
        "return [...document.querySelectorAll('.cell')].map((c) => [+c.ariaPosInSet, c.querySelector('.card').title])"
    )
    keys = make_columns().key
    first = dict(report.run(cards))
    assert [first[n] for n in (1, 2, 3)] == [keys[ITEMS - 1], keys[ITEMS - 2], keys[ITEMS - 3]]
    report.set_value("#worst", 5)
    assert report.found() == 5
    report.set_value("#sort", "disagreement")
    report.one("#reverse").click()
    assert dict(report.run(cards))[1] == keys[0]
    report.set_value("#worst", "")
    report.press(Keys.TAB)
    report.run("document.querySelector('.card').focus()")
    report.press(Keys.END)
    last = dict(report.run(cards))
    assert {last[ITEMS], last[ITEMS - 1]} == {keys[FAILED], keys[WITHOUT_COARSE]}


def test_only_cards_that_are_seen_exist(report: Page) -> None:
    """However long the list, the page holds cards for about what is in the window, all the way down."""
    report.open(GALLERY)
    cards = "return document.querySelectorAll('.card').length"
    assert 0 < report.run(cards) < 50
    report.run("scrollTo(0, document.documentElement.scrollHeight)")
    report.until(
        "return [...document.querySelectorAll('.cell')].some((c) => c.ariaPosInSet === String(arguments[0]))", ITEMS
    )
    assert 0 < report.run(cards) < 50
    report.one("#has-2").click()
    report.frame()
    under_the_bar = "return document.querySelector('.card').getBoundingClientRect().top >= arguments[0]"
    assert report.run(under_the_bar, report.one("#results-bar").rect["y"] - report.run("return scrollY"))


def test_address_brings_a_view_back(report: Page) -> None:
    """The address holds filters, order, layers and the open image, so that it shows the same to somebody else."""
    report.open(GALLERY)
    report.one("#has-2").click()
    report.set_value("#folder", "1")
    report.set_value("#ignore-low", 0.3)
    report.set_value("#worst", 4)
    report.set_value("#left-layer-grid", "coarse")
    report.one(".legend .class-name").click()
    report.frame()
    address = report.run("return location.hash")
    found = report.found()
    report.open(address)
    assert report.run("return location.hash") == address
    assert report.found() == found == 4
    assert report.one("#left-layer-grid").get_attribute("value") == "coarse"
    assert report.one(".legend .class-name").get_attribute("aria-pressed") == "true"
    report.open(item_address(60))
    report.until(STAGE_DRAWN)
    assert report.one("#viewer-title").text == "a/image 060"
    report.open("#view=gallery&class=unheard+of&ignore=2..x&sort=__proto__&first=-3&folder=no&left=constructor")
    assert report.found() == ITEMS


def test_split_is_moved_by_pointer_and_keys(report: Page) -> None:
    """What is left and right of the split is drawn from the two layers that were chosen, wherever the split is."""
    report.open(item_address(60, "&left=truth&right=coarse&opacity=1"))
    report.until(STAGE_DRAWN)
    road, sky = CLASSES[0].color, CLASSES[1].color
    at_border = (0.7, 0.53)  # where truth still says sky, and the coarse label road
    assert report.pixel("#stage-canvas", *at_border) == road
    report.drag("#split", 400)
    assert int(report.one("#split").get_attribute("aria-valuenow")) > 75
    assert report.pixel("#stage-canvas", *at_border) == sky
    report.run("document.querySelector('#split').focus()")
    report.press(Keys.HOME)
    assert report.one("#split").get_attribute("aria-valuenow") == "0"
    assert report.pixel("#stage-canvas", *at_border) == road
    report.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert report.one("#split").get_attribute("aria-valuenow") == "4"
    report.press("s", Keys.HOME)
    assert report.pixel("#stage-canvas", *at_border) == sky
    before = report.pixel("#stage-canvas", 0.9, 0.2)
    report.set_value("#viewer-opacity", 0)
    assert report.pixel("#stage-canvas", 0.9, 0.2) != before


def test_keyboard_alone_is_enough(report: Page) -> None:
    """From the overview to a large image, on to the next, and back to its card, without a pointer."""
    report.open()
    report.press("g", Keys.ARROW_DOWN)
    at = "return document.activeElement.closest('.cell')?.ariaPosInSet"
    assert report.run(at) == "1"
    report.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    columns = report.run("return new Set([...document.querySelectorAll('.cell')].map((c) => c.style.left)).size")
    assert report.run(at) == str(2 + columns)
    assert report.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    report.press(Keys.ENTER)
    report.until(STAGE_DRAWN)
    title = report.one("#viewer-title").text
    report.press(Keys.ARROW_RIGHT)
    report.until("return document.querySelector('#viewer-title').textContent !== arguments[0]", title)
    assert report.one("#viewer .at").text == f"{3 + columns} of {ITEMS}"
    report.press("2")
    assert report.one("#right-layer-viewer").get_attribute("value") == "coarse"
    report.press(Keys.ESCAPE)
    report.until("return !document.querySelector('#viewer').open")
    assert report.run(at) == str(3 + columns)
    report.press("?")
    assert report.one("#help").is_displayed()
    report.press(Keys.ESCAPE, "/", "i")
    assert report.run("return document.activeElement.id") == "filter-text"
    report.press(Keys.ESCAPE, "v")
    assert report.one("#overview").is_displayed()


def test_overview_leads_into_the_gallery(report: Page) -> None:
    """From a class to the images with it, from a failure to its item, and from the worst images to each, large."""
    report.open()
    # not by the mouse: what is drawn above it meanwhile may move it from under the pointer
    report.run("document.querySelector('table.classes tbody tr:nth-child(3) .class-name').click()")
    assert report.one("#gallery").is_displayed()
    assert report.found() == len([n for n in range(ITEMS) if n % 3 == 0])
    report.press("v")
    report.run("document.querySelector('#overview th .link').click()")
    report.until("return document.querySelector('#viewer').open")
    assert report.one("#viewer-title").text == f"b/image {FAILED:03}"
    assert "cannot decode <img" in report.one("#viewer .facts").text
    report.press(Keys.ESCAPE, "v")
    report.until("return document.querySelectorAll('.worst-card canvas').length === 6")
    report.run("document.querySelectorAll('.worst-card')[1].click()")
    report.until(STAGE_DRAWN)
    assert report.one("#viewer-title").text == make_columns().key[ITEMS - 2]
    assert report.one("#viewer .at").text == f"2 of {ITEMS}"


def test_back_closes_the_large_view(report: Page) -> None:
    """The browser's way back leads from a large image to the list, and from there to the overview."""
    report.open()
    report.press("g")
    report.until(CARD_DRAWN)
    report.one(".card").click()
    report.until(STAGE_DRAWN)
    report.driver.back()
    report.until("return !document.querySelector('#viewer').open")
    assert report.one("#gallery").is_displayed()
    report.driver.back()
    report.until("return !document.querySelector('#overview').hidden")


def test_dark_and_light(report: Page) -> None:
    """The page follows the system, and the reader's own choice goes before it."""
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = report.open().run(ground)
    dark = report.open(dark=True).run(ground)
    assert light == "rgb(245, 246, 248)"
    assert dark == "rgb(17, 19, 23)"
    report.press("t")
    assert report.run(ground) == light
    assert report.one("#theme").get_attribute("aria-pressed") == "false"
    report.run("localStorage.clear()")


def test_palette_changes_every_mark(report: Page) -> None:
    """Colours that colour-blind readers can tell apart take the place of the schema's in pictures and legends."""
    report.open(item_address(60, "&left=auto&opacity=1"))
    report.until(STAGE_DRAWN)
    assert report.pixel("#stage-canvas", 0.3, 0.9) == CLASSES[0].color
    name = "return getComputedStyle(document.querySelector('.legend .swatch')).backgroundColor"
    assert report.run(name) == "rgb(128, 64, 128)"
    report.press("p")
    assert report.pixel("#stage-canvas", 0.3, 0.9) == (0, 114, 178)
    assert report.run(name) == "rgb(0, 114, 178)"
    report.press("p")
    report.run("localStorage.clear()")


def test_one_class_can_be_seen_alone(report: Page) -> None:
    """A click on a class's name leaves its pixels as they are and dims all others; another click brings them back."""
    report.open(item_address(60, "&left=auto&opacity=1"))
    report.until(STAGE_DRAWN)
    road, sky = (0.3, 0.9), (0.3, 0.1)
    report.one(".present [data-class='0']").click()
    report.frame()
    assert report.pixel("#stage-canvas", *road) == CLASSES[0].color
    dimmed = report.pixel("#stage-canvas", *sky)
    assert dimmed != CLASSES[1].color
    assert max(dimmed) < 90
    report.one(".present [data-class='0']").click()
    report.frame()
    assert report.pixel("#stage-canvas", *sky) == CLASSES[1].color


def test_pointer_names_what_is_under_it(report: Page) -> None:
    """Over the large image each layer's class is named."""
    report.open(item_address(60))
    report.until(STAGE_DRAWN)
    report.run(
        "const p = document.querySelector('.picture'), b = p.getBoundingClientRect();"
        "const at = { clientX: b.left + 0.4 * b.width, clientY: b.top + 0.5 * b.height };"
        "p.dispatchEvent(new PointerEvent('pointermove', at))"
    )
    names = report.run("return [...document.querySelectorAll('#tip span')].map((s) => s.textContent)")
    assert names == [f"{layer} {HOSTILE_CLASS}" for layer in ("Coarse", "Auto", "Merged", "Truth")]


def test_hostile_names_are_text(report: Page) -> None:
    """Markup in keys, classes, folders and reasons is shown as it is, and makes no element and no script."""
    report.open()
    # any alert would make the driver raise at the next command
    report.until("return document.querySelectorAll('script').length === 2")  # those that load data are gone again
    assert report.run("return document.querySelectorAll('img, b, i, u').length") == 0
    assert report.run("return document.title") == "run <b>one</b> - autocoarse report"
    assert "cannot decode <img src=x onerror=alert(4)>" in report.one("#overview").text
    assert HOSTILE_KEY in report.run("return document.querySelector('dl.made').textContent")
    report.press("g")
    assert report.run("return document.querySelector('.card').title") == HOSTILE_KEY
    names = report.run("return [...document.querySelectorAll('.legend .class-name')].map((n) => n.textContent)")
    assert names == [row.name for row in CLASSES]
    report.one("#has-2").click()
    report.run("document.querySelector('.card').click()")
    report.until(STAGE_DRAWN)
    assert report.run("return document.querySelectorAll('img, b, i, u, #grid script').length") == 0


def test_no_other_script_runs(report: Page) -> None:
    """The page's policy keeps a script from running that did not come with it, should one ever get in."""
    report.open()
    report.run(
        "const s = document.createElement('script'); s.textContent = 'window.intruder = true'; document.body.append(s)"
    )
    assert report.run("return window.intruder") is None
    assert "Content Security Policy" in report.complaint()


def test_item_without_a_coarse_label(report: Page) -> None:
    """A layer that an image lacks is said to be none, and the others are shown."""
    report.open(item_address(WITHOUT_COARSE, "&left=coarse&right=auto&opacity=1"))
    report.until(STAGE_DRAWN)
    assert report.one(".side.left").text == "Coarse: none here"
    assert report.one(".side.right").text == "Auto"
    assert report.run("return [...document.querySelectorAll('.strip button')].map((b) => b.dataset.layer)") == [
        "image",
        "auto",
        "merged",
        "truth",
        "auto-truth",
        "merged-truth",
    ]


def test_keys_can_be_taken_along(report: Page) -> None:
    """The keys of what matches are what `export --select keys:FILE` reads: one a line, in the order shown."""
    report.open(f"{GALLERY}&text=image+12&sort=key")
    report.run("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    report.one("#copy-keys").click()
    keys = sorted(key for key in make_columns().key if "image" in key and "12" in key)
    assert report.until("return window.copied") == "".join(f"{key}\n" for key in keys)


def test_missing_files_leave_the_rest(
    report: Page, open_folder: Callable[[Path], Page], report_folder: Path, tmp_path: Path
) -> None:
    """Without a file of thumbnails its items are shown without a picture; the other files' have theirs."""
    copy = tmp_path / "copy"
    shutil.copytree(report_folder, copy)
    (copy / "data" / "thumbs-00000.js").unlink()
    page = open_folder(copy)
    page.press("g")
    assert page.until("return document.querySelector('.card .blank')?.textContent") == "not found"
    page.set_value("#sort", "key")
    page.until(CARD_DRAWN)
    assert "thumbs-00000.js" in report.complaint()
