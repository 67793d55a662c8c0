"""One headless Chromium for all tests of the report's page, and a small report to open in it."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.sample_report import write_report

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 90.0
"""Seconds until something that does not come is a failure."""


@dataclass
class Page:
    """A report in the browser, as a reader uses it."""

    driver: webdriver.Chrome
    folder: Path

    def open(self, address: str = "", *, size: tuple[int, int] = (1280, 800), dark: bool = False) -> "Page":
        """Open the report anew at a part of its address, in a window of (width, height), and wait until it is ready."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")  # or another part of the same address would not load it anew
        self.driver.get((self.folder / "index.html").as_uri() + address)
        self.until("return document.documentElement.dataset.ready")
        return self

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script's text as a function's body."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: object) -> Any:
        """Run a script again until what it gives is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, f"never came true: {script}"
            time.sleep(0.02)
        return found

    def frame(self) -> None:
        """Wait until what was asked for is drawn."""
        wait = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        self.driver.execute_async_script(wait)

    def one(self, selector: str) -> WebElement:
        """The element of a selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()
        self.frame()

    def drag(self, selector: str, right: int) -> None:
        """Take an element by its middle and let it go so many pixels further right."""
        ActionChains(self.driver, duration=0).drag_and_drop_by_offset(self.one(selector), right, 0).perform()
        self.frame()

    def set_value(self, selector: str, value: object) -> None:
        """Give a control another value the way a reader does."""
        self.run(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "for (const name of ['input', 'change']) e.dispatchEvent(new Event(name, { bubbles: true }))",
            selector,
            value,
        )
        self.frame()

    def found(self) -> int:
        """How many images match, as the page says."""
        return int(self.one("#found strong").text)

    def pixel(self, selector: str, x: float, y: float) -> tuple[int, int, int]:
        """Colour of a canvas at a place of 0..1 in either direction."""
        return tuple(
            self.run(
                "const c = document.querySelector(arguments[0]);"
                "const at = [arguments[1] * c.width, arguments[2] * c.height].map(Math.floor);"
                "const one = new OffscreenCanvas(1, 1).getContext('2d');"
                "one.drawImage(c, -at[0], -at[1]);"
                "return Array.from(one.getImageData(0, 0, 1, 1).data.slice(0, 3))",
                selector,
                x,
                y,
            )
        )

    def complaint(self) -> str:
        """The one thing that the browser's console is told of, when it comes."""
        end = time.monotonic() + PATIENCE
        while not (found := self.complaints()):
            assert time.monotonic() < end, "the console was told of nothing"
            time.sleep(0.02)
        assert len(found) == 1, found
        return found[0]

    def complaints(self) -> list[str]:
        """What the browser's console was told since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """A headless Chromium without a network to speak of; skipped where there is none."""
    binary = next((path for name in CHROMIUMS if (path := shutil.which(name))), None)
    driver_path = shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip("no Chromium with its chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # as root, and where shared memory is small, as in containers
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample report, in a folder whose name must be escaped in an address."""
    folder = tmp_path_factory.mktemp("a report #1 with ü")
    write_report(folder)
    return folder


@pytest.fixture
def report(browser: webdriver.Chrome, report_folder: Path) -> Iterator[Page]:
    """The sample report in the browser; no test may make the console complain, nor open an alert."""
    page = Page(browser, report_folder)
    page.complaints()
    yield page
    assert page.complaints() == []


@pytest.fixture
def open_folder(browser: webdriver.Chrome) -> Callable[[Path], Page]:
    """Open another report."""
    return lambda folder: Page(browser, folder).open()
