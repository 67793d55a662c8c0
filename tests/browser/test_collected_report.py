"""Reports that were collected from runs, in a real browser: of generated scenes, and of photographs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.labelling import LabelRun
from pipeline.report_settings import ReportSettings
from pipeline.reporting import make_report
from pipeline.scenes import write_scene_set
from pipeline.settings import LabelSettings
from storage.schema import ClassSchema, load_schema
from tests.browser.conftest import Page

CAMVID = Path(__file__).parents[3] / "shared/camvid"
WINDOWS = ((390, 844), (1280, 800), (2560, 1440))
COUNT = 4


@pytest.fixture(
    params=["scenes", pytest.param("camvid", marks=pytest.mark.skipif(not CAMVID.is_dir(), reason="no photographs"))]
)
def schema(request: pytest.FixtureRequest) -> ClassSchema:
    """Of the set that is reported on."""
    return load_schema(request.param)


@pytest.fixture
def collected(tmp_path: Path, schema: ClassSchema, tiny_teacher: Path) -> Path:
    """The report of some labelled images with a truth; of the scenes also with coarse labels."""
    images, truth, coarse = (tmp_path / name for name in ("images", "labels_fine", "labels_coarse"))
    if schema.name == "scenes":
        for _ in write_scene_set(tmp_path, 0, (0, COUNT, 0), (96, 128)):
            pass
    else:
        for path in sorted((CAMVID / "images/val").rglob("*.jpg"))[::25][:COUNT]:
            key = path.relative_to(CAMVID / "images").with_suffix("")
            for source, place in ((CAMVID / "images", images), (CAMVID / "labels_fine", truth)):
                suffix = ".jpg" if place == images else ".png"
                (place / key).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / f"{key}{suffix}", place / f"{key}{suffix}")
    settings = LabelSettings(
        images=images, teacher=str(tiny_teacher), scales=(1.0,), device="cpu", keep="confidence", out=tmp_path / "run"
    )
    with LabelRun(settings) as run:
        for _ in run:
            pass
    wanted = {"truth": truth} | ({"coarse": coarse} if coarse.is_dir() else {})
    *_, last = make_report(ReportSettings.checked(run=settings.out, **wanted))
    assert last.report is not None
    return last.report.folder


def test_a_collected_report_opens_in_windows_of_three_sizes(
    collected: Path, schema: ClassSchema, open_folder: Callable[[Path], Page]
) -> None:
    """Overview and gallery hold every image and class, the large view draws, and the console has no complaint."""
    page = open_folder(collected)
    page.complaints()
    for size in WINDOWS:
        page.open(size=size)
        names = page.run("return document.body.innerText")
        assert all(name in names for name in schema.names)
        page.open("#view=gallery", size=size)
        assert page.found() == COUNT
        page.until("return document.querySelector('.card canvas') !== null")
        page.run("document.querySelector('.card').click()")
        page.until("return document.querySelector('#viewer[open] .picture:not([hidden])') !== null")
    assert page.complaints() == []
