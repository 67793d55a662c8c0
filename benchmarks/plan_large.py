"""How long a plan of many images takes, and how much memory: nothing done, and everything done.

    python benchmarks/plan_large.py --images 1000000

It makes so many tiny files (hard links of one picture, a thousand a folder) and, with SQL and more links, the ledger
and the labels that a run of them would leave; then it plans twice, in processes of their own. Files agree by size and
time, as they do when a run is gone on with; hashes are `verify`'s.
"""

import argparse
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.labelling import LabelRun  # noqa: F401 - what the command has in memory when it plans
from pipeline.plan_making import PlanMaker
from storage.ledger import Ledger
from storage.workspace import Workspace

_FOLDER = 1000
_DIGEST = "0123456789abcdef"


def make_files(root: Path, count: int) -> None:
    """Images in `images`, and in `run` what labelling them would leave."""
    source = root / "source.png"
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(source)
    workspace = Workspace(root / "run")
    workspace.prepare()
    for number in range(count):
        folder, name = f"{number // _FOLDER:05d}", f"{number % _FOLDER:04d}.png"
        for top in (root / "images", workspace.labels):
            if number % _FOLDER == 0:
                (top / folder).mkdir(parents=True)
        if number % 30_000 == 0:  # a file has at most 65,000 names, and here it has two each time
            source = root / f"source-{number}.png"
            Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(source)
        os.link(source, root / "images" / folder / name)
        os.link(source, workspace.labels / folder / name)


def fill_ledger(root: Path, count: int) -> None:
    """An entry a file."""

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(count):
            key = f"{number // _FOLDER:05d}/{number % _FOLDER:04d}"
            found = (root / "images" / f"{key}.png").stat()
            counts = "[" + ", ".join(["1000"] * 19) + "]"
            image = (found.st_size, found.st_mtime_ns, "0" * 64)
            label = (8, 6, 0, found.st_size, found.st_mtime_ns, "0" * 64, counts)
            yield (key, "done", _DIGEST, *image, *label, 0.1, 1, "")

    path = Workspace(root / "run").ledger
    with Ledger(path):
        pass
    marks = ", ".join("?" * 16)
    with sqlite3.connect(path) as connection:
        connection.executemany(f"INSERT INTO entries VALUES ({marks})", rows())  # noqa: S608 - question marks


def plan(root: Path, digest: str) -> str:
    """Plan, and read all that is to do, as a run does; gives a row of the table."""
    workspace = Workspace(root / "run")
    started, before = time.perf_counter(), memory()
    with Ledger(workspace.ledger) as ledger:
        made = PlanMaker(ledger, workspace, digest).make(root / "images", "folder")
        planned = time.perf_counter() - started
        read = sum(1 for _ in made.to_do())
    seconds, after = time.perf_counter() - started, memory()
    assert made.total == made.done_count + read
    counts = f"{made.total:,} | {made.done_count:,} | {read:,}"
    sizes = f"{before['VmHWM']} MB | {after['VmHWM']} MB | {after['VmHWM'] - before['VmHWM']} MB"
    return f"| {counts} | {planned:.1f} s | {seconds:.1f} s | {sizes} |"


def memory() -> dict[str, int]:
    """Of this process, in MB."""
    found = re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    return {name: int(kilobytes) // 1000 for name, kilobytes in found}


def main() -> None:
    """Make the files, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--plan", nargs=2, metavar=("ROOT", "DIGEST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        print(plan(Path(options.plan[0]), options.plan[1]))
        return
    print("| images | done | to do | planned | and all of it read | memory before | peak | it takes |")
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "run/labels").mkdir(parents=True)
        make_files(root, options.images)
        fill_ledger(root, options.images)
        done = [sys.executable, __file__, "--plan", folder, _DIGEST]
        print(subprocess.run(done, check=True, capture_output=True, text=True).stdout, end="")
        # nothing done: the same images, and a run that is empty
        (root / "run").rename(root / "other")
        (root / "run/labels").mkdir(parents=True)
        print(subprocess.run(done, check=True, capture_output=True, text=True).stdout, end="")


if __name__ == "__main__":
    main()
