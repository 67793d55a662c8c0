"""Laws of the plan of a labelling run, against a definition that holds everything in memory."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.labelling import LabelRun
from pipeline.plan import Plan
from pipeline.plan_making import PlanMaker
from pipeline.settings import LabelSettings
from storage.ledger import Entry, Ledger
from storage.object_io import file_digest
from storage.shard import Shard
from storage.workspace import Workspace

DIGEST = "0123456789abcdef"


def make_plan(workspace: Workspace, images: Path, shard: Shard | None = None) -> Plan:
    """Plan with the ledger as it is."""
    with Ledger(workspace.ledger) as ledger:
        return PlanMaker(ledger, workspace, DIGEST).make(images, "folder", [workspace.root], shard)


def add(workspace: Workspace, images: Path, key: str, state: str) -> None:
    """Make an item that is in a state, by what lies on the disk and in the ledger."""
    image, label = images / f"{key}.png", workspace.label_path(key)
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(key.encode())
    if state == "new":
        return
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(label)  # a label, and nothing says that it is ours
    entry = Entry(
        key=key,
        status="failed" if state == "failed" else "done",
        settings_digest="other" if state == "other settings" else DIGEST,
        image_bytes=image.stat().st_size,
        image_modified_ns=image.stat().st_mtime_ns,
        image_sha256=file_digest(image),
        height=2,
        width=3,
        ignored=1,
        bytes=label.stat().st_size,
        modified_ns=label.stat().st_mtime_ns,
        sha256=file_digest(label),
    )
    with Ledger(workspace.ledger) as ledger:
        ledger.commit([] if state == "stranger" else [entry])
    if state == "failed" or state == "label gone":
        label.unlink()
    elif state == "touched":
        os.utime(label, ns=(1, 1))
        os.utime(image, ns=(1, 1))
    elif state == "image replaced":
        image.write_bytes(b"another image")
        label.unlink()


_STATES = {
    "new": "to do",
    "done": "done",
    "failed": "to do",
    "label gone": "to do",
    "touched": "done",
    "image replaced": "to do",
    "stranger": "refused",
    "other settings": "refused",
}
"""What is to become of each state."""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    states=st.dictionaries(
        st.from_regex(r"[a-c]/[a-z0-9é][a-z0-9 é.]{0,2}[a-z]", fullmatch=True),
        st.sampled_from(sorted(_STATES)),
        max_size=12,
    ),
    count=st.integers(1, 3),
)
def test_each_image_is_in_one_part_of_the_plan(tmp_path: Path, states: dict[str, str], count: int) -> None:
    """Whatever lies on the disk and in the ledger, an image is done, to do or refused, as its own files say."""
    shutil.rmtree(tmp_path)
    images, workspace = tmp_path / "images", Workspace(tmp_path / "run")
    workspace.prepare()
    add(workspace, images, "z/always", "new")
    for key, state in states.items():
        add(workspace, images, key, state)
    parts = {"done": 0, "to do": 0, "refused": 0}
    to_do = []
    for number in range(1, count + 1):
        plan = make_plan(workspace, images, Shard(number, count))
        found = [item.key for item in plan.to_do()]
        assert found == sorted(found)
        assert (len(found), plan.total) == (plan.to_do_count, plan.done_count + plan.left_count)
        refused = [entry.key for entry in plan.failures(DIGEST)]
        assert all(key in plan for key in [*found, *refused])
        assert plan.done.made.count * 6 == plan.done.pixels
        parts["done"] += plan.done_count
        parts["refused"] += len(refused)
        to_do += found
        plan.close()
    expected = {"z/always": "to do", **{key: _STATES[state] for key, state in states.items()}}
    assert sorted(to_do) == sorted(key for key, part in expected.items() if part == "to do")
    assert {"done": parts["done"], "refused": parts["refused"]} == {
        part: sum(one == part for one in expected.values()) for part in ("done", "refused")
    }


def test_images_that_share_a_key_are_refused_each_by_its_own_name(tmp_path: Path) -> None:
    """None of them is taken for the right one, and the rest of the set is not held up."""
    images, workspace = tmp_path / "images", Workspace(tmp_path / "run")
    workspace.prepare()
    images.mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        (images / name).write_bytes(b"x")
    plan = make_plan(workspace, images)
    assert [item.key for item in plan.to_do()] == ["b"]
    assert [entry.key for entry in plan.failures(DIGEST)] == ["a.jpg", "a.png"]
    assert "a.png" in plan
    assert "a" not in plan


def test_a_sample_is_of_what_is_to_do(tmp_path: Path) -> None:
    """As many items as are asked for, none twice, and the same ones each time."""
    images, workspace = tmp_path / "images", Workspace(tmp_path / "run")
    workspace.prepare()
    for number in range(40):
        add(workspace, images, f"{number}", "done" if number % 4 else "new")
    plan = make_plan(workspace, images)
    drawn = [item.key for item in plan.sample(5)]
    assert len(set(drawn)) == 5
    assert set(drawn) <= {item.key for item in plan.to_do()}
    assert drawn == [item.key for item in plan.sample(5)]
    assert len(plan.sample(50)) == plan.to_do_count == 10


def test_the_plan_is_read_while_the_ledger_is_written(
    tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]
) -> None:
    """Reading the plan keeps no lock on the ledger, also over several pages of items."""
    for number in range(3):
        make_image(tmp_path / f"images/{number}.png", (40, 48), number)
    wanted = LabelSettings(images=tmp_path / "images", teacher=str(tiny_teacher), out=tmp_path / "run", scales=(1.0,))
    with LabelRun(wanted) as run:
        items = run.plan.to_do()
        next(items)
        with sqlite3.connect(run.workspace.ledger, timeout=0.1) as other:
            other.execute("INSERT INTO notes VALUES ('x', '{}')")
        assert len(list(items)) == 2


@pytest.mark.parametrize("count", [999, 1000, 1001])
def test_pages_leave_no_item_out(tmp_path: Path, count: int) -> None:
    """The number of items is whatever it is, also at the edge of a page."""
    images, workspace = tmp_path / "images", Workspace(tmp_path / "run")
    workspace.prepare()
    images.mkdir()
    for number in range(count):
        (images / f"{number}.png").touch()
    assert len({item.key for item in make_plan(workspace, images).to_do()}) == count


@pytest.mark.parametrize("way", ["a run among the labels", "a file where a folder is to be", "a label there"])
def test_what_stands_in_a_labels_way_refuses_its_image_alone(tmp_path: Path, way: str) -> None:
    """It is never written over, and found before the run is under way."""
    images, workspace = tmp_path / "images", Workspace(tmp_path / "run")
    workspace.prepare()
    name = "a.png" if way == "a label there" else "a"
    for key in (f"{name}/1", "b/1"):
        add(workspace, images, key, "new")
    if way == "a run among the labels":
        (workspace.labels / name / "labels").mkdir()
        (workspace.labels / name / "ledger.sqlite").touch()
        Image.fromarray(np.zeros((2, 3), np.uint8)).save(workspace.labels / name / "1.png")
    else:
        (workspace.labels / name).rmdir()
        (workspace.labels / name).write_bytes(b"in the way")
    plan = make_plan(workspace, images)
    assert [item.key for item in plan.to_do()] == ["b/1"]
    assert [entry.key for entry in plan.failures(DIGEST)] == [f"{name}/1"]
