"""How labelling scales with workers: processes of this machine whose teacher is a stand-in of a set latency.

All else is a run's own: the plan, dask's scheduler and nannies (in this process, as with `--workers`), the dispatch,
the decoding and writing in the workers, the ledger. Workers sleep where they would wait for a GPU, so that a few cores
carry many of them; until the cores are full the ideal is workers / latency.

The rate is that from the moment when all workers are ready to the last label, growing of the shards and the end
included. `steady` is that of the middle of the run, by the times of the label files. The processor's time is that of
the driver with all its threads, and that of the workers; `others` is what else took the machine's cores meanwhile.

    python benchmarks/scaling.py                                        the tables
    python benchmarks/scaling.py --workers 8 --latency 0.05             one row
    python benchmarks/scaling.py --workers 2 --latency 0.001 --images 20000
"""

import argparse
import io
import os
import tempfile
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import psutil
from PIL import Image
from stand_in import StandInSource

from storage.schema import load_schema

if TYPE_CHECKING:
    from pipeline.labelling import LabelRun

ROWS = ((1, 0.05), (2, 0.05), (4, 0.05), (8, 0.05), (16, 0.5), (64, 0.5))
SECONDS = 60.0
"""That a row should take at the ideal rate."""
MEMORY_ROW = (2, 0.001, 20_000)
MEMORY_AT = (1_000, 20_000)
SIZE = (64, 96)
FOLDER_FILES = 1_000
FULL = 0.9
"""Share of the cores' time from which on they are called saturated."""
READY_SECONDS = 300.0


@dataclass(slots=True)
class Clock:
    """Processor's time at a moment."""

    workers: list[psutil.Process]
    wall: float = field(init=False)
    driver: float = field(init=False)
    children: float = field(init=False)
    machine: float = field(init=False)

    def __post_init__(self) -> None:
        self.wall, self.driver = time.time(), time.process_time()
        self.children = sum(sum(worker.cpu_times()[:2]) for worker in self.workers)
        busy = psutil.cpu_times()
        self.machine = sum(busy[:8]) - busy.idle - busy.iowait


@dataclass(slots=True)
class Row:
    """What was measured with a number of workers."""

    workers: int
    latency: float
    images: int
    wall: float = 0.0
    steady: float = 0.0
    """Images a second in the middle of the run."""
    took: float = 0.0
    """Seconds that the stand-in took for an image; over its latency where a process waits for a core."""
    driver: float = 0.0
    children: float = 0.0
    machine: float = 0.0
    """Of the processor, seconds each; the last is all that the machine did."""
    startup: float = 0.0
    memory: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Bytes of the driver and of the largest worker, by the number of images labelled."""

    @property
    def ideal(self) -> float:
        """Images a second of workers that never wait."""
        return self.workers / self.latency

    @property
    def rate(self) -> float:
        """Images a second, to the end."""
        return self.images / self.wall

    def limit(self) -> str:
        """What the lost time was, of that of all workers."""
        cores = os.cpu_count() or 1
        late = self.images * (self.took - self.latency) / (self.workers * self.wall)
        idle = 1 - self.images * self.took / (self.workers * self.wall)
        full = ""
        if self.machine > FULL * cores * self.wall:
            own = self.driver + self.children
            full = f"{cores} cores saturated{', by others too' if own < FULL * self.machine else ''}; "
        return f"{full}{late:.1%} late by the system, {idle:.1%} no image"


def make_images(folder: Path, count: int) -> None:
    """Write small PNGs, a thousand a folder."""
    height, width = SIZE
    pixels = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(file, "PNG")
    for number in range(count):
        path = folder / f"{number // FOLDER_FILES:04}" / f"{number:08}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())


def open_run(root: Path, row: Row) -> "LabelRun":
    """A run as `label --workers` opens it, but for its teacher."""
    # here and not above: each worker process imports this file anew, and is to be without torch
    from pipeline import labelling
    from pipeline.settings import LabelSettings
    from pipeline.teacher_source import Source, TeacherSource
    from teacher import Teacher
    from teacher.networks.registry import build_network, default_spec

    schema = load_schema("cityscapes")
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050")
    # it answers what the driver asks of a teacher, and nobody runs it
    teacher = Teacher.of_network(build_network(spec).eval(), spec, schema)
    source: Source = StandInSource(row.latency, len(schema))
    settings = LabelSettings.checked(
        images=root / "images", out=root / "run", teacher="stand-in", workers=row.workers, device="cpu"
    )
    with (
        patch.object(labelling, "load_teacher", autospec=True, return_value=teacher),
        patch.object(TeacherSource, "of", autospec=True, return_value=source),
    ):
        return labelling.LabelRun(settings)


def wait_for_all(run: "LabelRun", count: int) -> list[psutil.Process]:
    """Have all workers ready before there is anything to do; gives their processes.

    Raises:
        RuntimeError: one cannot be used, or does not come.
    """
    end = time.monotonic() + READY_SECONDS
    while [view.state for view in run.workers.view()] != ["ready"] * count:
        list(run.workers.label(iter(()), 0, lambda entries: entries))
        if time.monotonic() > end or any(view.state not in ("ready", "opening") for view in run.workers.view()):
            raise RuntimeError(f"not all workers are ready: {run.workers.view()}")
        time.sleep(0.1)
    return [psutil.Process(int(view.name.rpartition(":")[2])) for view in run.workers.view()]


def measure(workers: int, latency: float, images: int) -> Row:
    """Label images with so many workers.

    Raises:
        RuntimeError: an image has failed.
    """
    row, me = Row(workers, latency, images), psutil.Process()
    made, seconds = array("d"), 0.0
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder) / "images", images)
        started = time.monotonic()
        with open_run(Path(folder), row) as run:
            processes = wait_for_all(run, workers)
            row.startup = time.monotonic() - started
            before = Clock(processes)
            for count, entry in enumerate(run, start=1):
                if entry.status != "done":
                    raise RuntimeError(entry.reason)
                made.append(entry.modified_ns / 1e9)
                seconds += entry.seconds
                if count in MEMORY_AT:
                    row.memory[count] = me.memory_info().rss, max(one.memory_info().rss for one in processes)
            after = Clock(processes)
    row.wall, row.took = after.wall - before.wall, seconds / images
    row.driver, row.children = after.driver - before.driver, after.children - before.children
    row.machine = after.machine - before.machine
    row.steady = _steady(sorted(made), before.wall, after.wall)
    return row


def _steady(made: list[float], start: float, end: float) -> float:
    """Rate between three and eight tenths of the time."""
    first, last = start + 0.3 * (end - start), start + 0.8 * (end - start)
    return sum(first <= when < last for when in made) / (last - first)


def print_rows(rows: list[Row]) -> None:
    """Print what each number of workers reaches, and what it takes."""
    cores = os.cpu_count() or 1
    print(
        "| workers | latency | images | ideal/s | to the end/s | | steady/s | | driver ms | worker ms | own CPU "
        "| others | lost to |"
    )
    print("|---:" * 12 + "|---|")
    for row in rows:
        own, wall = row.driver + row.children, row.wall * cores
        print(
            f"| {row.workers} | {row.latency:g} s | {row.images} | {row.ideal:.1f} | {row.rate:.1f} | "
            f"{row.rate / row.ideal:.1%} | {row.steady:.1f} | {row.steady / row.ideal:.1%} | "
            f"{1e3 * row.driver / row.images:.2f} | {1e3 * row.children / row.images:.2f} | {own / wall:.0%} | "
            f"{max(0.0, row.machine - own) / wall:.0%} | {row.limit()} |",
            flush=True,
        )


def print_memory(row: Row) -> None:
    """Print whether driver or workers grow with the set."""
    print("\n| images labelled | driver | largest worker |\n|---:|---:|---:|")
    for count, (driver, worker) in row.memory.items():
        print(f"| {count} | {driver / 1e6:.1f} MB | {worker / 1e6:.1f} MB |")


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="of one row; without it all are measured")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the stand-in takes for an image")
    parser.add_argument("--images", type=int, help=f"by default as many as take {SECONDS:g} s at best")
    options = parser.parse_args()
    # workers start anew and must find the stand-in too
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.2f}", flush=True)
    if options.workers is not None:
        images = options.images or round(SECONDS * options.workers / options.latency)
        rows = [measure(options.workers, options.latency, images)]
    else:
        rows = [measure(workers, latency, round(SECONDS * workers / latency)) for workers, latency in ROWS]
        rows.append(measure(*MEMORY_ROW))
    print_rows(rows)
    for row in rows:
        if row.memory and row.images >= MEMORY_AT[-1]:
            print_memory(row)
    print(f"\nstart of all workers: {', '.join(f'{row.workers}: {row.startup:.1f} s' for row in rows)}")


if __name__ == "__main__":
    main()
