"""How fast a RUN of 2-megapixel labels is verified, against decoding the same files and against processes.

Labels are like a teacher's (see teacher_like.py), a few different ones in turn; the files are in the page cache, so
this is the time of the processor and not of the disk. Each figure is the best of a few rounds. "items alone" is what
threads do in a verification, without the ledger, done by threads and by processes.

    python benchmarks/verify_speed.py                     200 labels, one worker a processor
    python benchmarks/verify_speed.py 1000 --workers 4
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from teacher_like import CLASSES, teacher_like

from pipeline.publishing import publish_label
from pipeline.settings import settings_digest
from pipeline.verification import Verification
from pipeline.verify_item import ItemCheck, Subject
from storage.label_map import LabelMap
from storage.ledger import Ledger
from storage.workspace import Workspace

SIZE = (1080, 1920)
MAPS = 8
NOISE = 0.7
ROUNDS = 5
MISSION = 20_000
SETTINGS: dict[str, object] = {"classes": [str(index) for index in range(CLASSES)], "threshold": 0.5}


def make_run(root: Path, count: int) -> Workspace:
    """Write a run of `count` labels, as labelling does."""
    workspace, digest = Workspace(root), settings_digest(SETTINGS)
    workspace.prepare()
    maps = [LabelMap(teacher_like(index, SIZE, NOISE), CLASSES) for index in range(min(count, MAPS))]
    with Ledger(workspace.ledger) as ledger:
        ledger.claim(SETTINGS)
        ledger.commit(
            publish_label(
                workspace,
                f"{index:06}",
                maps[index % len(maps)],
                {"settings": digest, "threshold": 0.5, "index": index},
                settings_digest=digest,
            )
            for index in range(count)
        )
    workspace.tidy()
    workspace.settings.write_text("[rethreshold]\n")  # a run without images of its own
    return workspace


def verify(root: Path, workers: int) -> None:
    """Verify the run, and make sure that it is sound: damage would be found sooner."""
    with Verification(root, workers=workers) as verification:
        assert all(found.problem is None for found in verification)


def decode(path: Path) -> None:
    """Decode a label and nothing else."""
    with Image.open(path, formats=["PNG"]) as image:
        image.load()


def measure(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each work's fastest round; they take turns, so that a busy minute of the machine hits all of them."""
    fastest = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            fastest[name] = min(fastest[name], time.perf_counter() - started)
    return fastest


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    count, workers = options.count, options.workers
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_run(Path(folder) / "run", count)
        with Ledger(workspace.ledger, read_only=True) as ledger:
            check = ItemCheck.of(SETTINGS, None)
            subjects = [Subject(entry, workspace.label_path(entry.key), None, None, None) for entry in ledger]
        paths = [subject.label for subject in subjects]

        def items(pool: Executor) -> None:
            assert not any(pool.map(check.find_problem, subjects, chunksize=8))

        with ThreadPoolExecutor(workers) as threads, ProcessPoolExecutor(workers) as processes:
            items(processes)  # they start with the first work
            rows = measure(
                {
                    "verify": lambda: verify(workspace.root, workers),
                    "decoding alone": lambda: list(threads.map(decode, paths)),
                    "items alone, threads": lambda: items(threads),
                    "items alone, processes": lambda: items(processes),
                }
            )
        size = sum(path.stat().st_size for path in paths) / count
    print(f"{count} labels of {SIZE[1]}x{SIZE[0]}, {size:.0f} bytes each, {workers} workers")
    print(f"{'':22} {'labels/s':>8} {f'{MISSION} labels':>13} {'/ decoding':>10}")
    for name, seconds in rows.items():
        ratio = seconds / rows["decoding alone"]
        print(f"{name:22} {count / seconds:8.1f} {seconds / count * MISSION:11.0f} s {ratio:10.2f}")


if __name__ == "__main__":
    main()
