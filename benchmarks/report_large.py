"""What the report of a large RUN takes, by the number of its items: processor time, peak memory, bytes.

The RUN is a finished one, taken as often as needed: its images and labels are linked under new names, and so are those
of a folder of coarse labels. Each report is made by a process of its own.

    python benchmarks/report_large.py RUN --coarse DIR              of 1000 and of 4000 items
    python benchmarks/report_large.py RUN --counts 20000 --thumb-bytes 200MB
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from pipeline.report_settings import ReportSettings
from pipeline.report_sources import ReportItem, Sources, find_sources
from storage.ledger import Ledger
from storage.workspace import Workspace


def make_run(folder: Path, sources: Sources, count: int) -> None:
    """Write a run of `count` items, its images and its coarse labels."""
    run = Workspace(folder / "run")
    run.prepare()
    run.tidy()
    run.classes.write_bytes(sources.run.classes.read_bytes())
    run.settings.write_text(
        f"[label]\nimages = {json.dumps(str(folder / 'images'))}\nout = {json.dumps(str(run.root))}\n"
    )
    done = [item for item in sources.items if item.entry is not None and item.entry.status == "done"]
    with Ledger(run.ledger) as ledger:
        ledger.claim(dict(sources.settings))
        ledger.commit(
            replace(item.entry, key=_link(folder, run, item, number))
            for number, item in enumerate(islice(cycle(done), count))
            if item.entry is not None
        )


def _link(folder: Path, run: Workspace, item: ReportItem, number: int) -> str:
    """Link an item's files under the key of its copy."""
    key = f"{number // 500:03}/{number:06}"
    links = [
        (file.path, run.label_path(key) if layer == "auto" else folder / layer / f"{key}.png")
        for layer, file in item.labels.items()
    ]
    if item.image is not None:
        links.append((item.image, folder / "images" / f"{key}{item.image.suffix}"))
    for source, place in links:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, place)
        except OSError:  # another file system
            place.symlink_to(source.resolve())
    return key


# what the system counts of a child's memory has its parent's in it, before it runs its own program
_COMMAND = """
import atexit, pathlib, sys
atexit.register(lambda: sys.stderr.write(pathlib.Path("/proc/self/status").read_text()))
from cli.main import main
main()
"""


def main() -> None:
    """Print a row for each number of items."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--coarse", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--thumb-bytes", default="200MB")
    parser.add_argument("--folder", type=Path, help="where the runs are made; the system's by default")
    options = parser.parse_args()
    sources = find_sources(ReportSettings.checked(run=options.run, coarse=options.coarse))
    print("| items | seconds of the processor | ms an item | peak MB | thumbnails | their MB | table MB | all MB |")
    print("|" + "---|" * 8)
    before = 0.0
    for count in sorted(options.counts):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            make_run(Path(name), sources, count)
            coarse = ["--coarse", str(Path(name, "coarse"))] if options.coarse else []
            arguments = ["report", str(Path(name, "run")), *coarse, "--thumb-bytes", options.thumb_bytes, "--json"]
            result = subprocess.run(
                [sys.executable, "-c", _COMMAND, *arguments], check=True, capture_output=True, text=True
            )
            got = json.loads(result.stdout.splitlines()[-1])
            table = (Path(got["out"]) / "data/items.js").stat().st_size
        peak = max(int(kilobytes) for kilobytes in re.findall(r"VmHWM:\s*(\d+)", result.stderr)) / 1e3
        used = sum(os.times()[2:4])  # of the children, in all threads
        seconds, before = used - before, used
        print(
            f"| {count:,} | {seconds:.0f} | {1000 * seconds / count:.0f} | {peak:.0f} | {got['thumbs']:,} | "
            f"{got['thumb_bytes'] / 1e6:.1f} | {table / 1e6:.2f} | {got['bytes'] / 1e6:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
