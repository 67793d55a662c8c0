"""The ways to use several scales, on the same network with equal steps: mIoU, operations and memory of training.

For each seed three networks are trained on the fine images of CamVid, each by `autocoarse train` in a process of its
own: `single` at scale 1, `explicit` at 0.5, 1 and 2, `hierarchical` at 0.5 and 1. `--attention average` trains what
`single` does, so the mean of scales is taken of the network trained as single. Then `autocoarse evaluate` judges each
way to label on the validation images. Operations and planned memory are counted by `pipeline.training_cost`, the peak
memory is the training process's largest resident size as the system counted it.

    python benchmarks/attention_camvid.py --camvid DIR --weights FILE --out DIR [--steps 180] [--seeds 3]

--trainings single,hierarchical leaves out the explicit one, which takes longest.

OUT gets a folder for each seed, `results.json` and `table.md`; the last two are written anew whenever a seed is
complete. The same command goes on after a stop, and says at once what it knows if all is there. Peak memory and time
of a training that was stopped in between are not given.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.training_cost import TrainingCost, measure_cost
from pipeline.training_settings import TrainingRecipe
from storage.schema import load_schema
from teacher.networks.prediction import Fusion

_CROP, _BATCH = (160, 160), 8
_CLASSES = "camvid"


class Way(NamedTuple):
    """A way to label with one of the trained networks."""

    name: str
    trained: Fusion
    fusion: Fusion | None
    """None: the network's own."""
    scales: str


TRAINED: tuple[Fusion, ...] = ("single", "hierarchical", "explicit")
WAYS = (
    Way("single", "single", "single", "1"),
    Way("average", "single", "average", "0.5,1"),
    Way("average", "single", "average", "0.5,1,2"),
    Way("explicit", "explicit", None, "0.5,1,2"),
    Way("hierarchical", "hierarchical", None, "0.5,1"),
    Way("hierarchical", "hierarchical", None, "0.5,1,2"),
)
WITHOUT_ITS_ATTENTION = (
    Way("hierarchical, single", "hierarchical", "single", "1"),
    Way("hierarchical, averaged", "hierarchical", "average", "0.5,1"),
    Way("hierarchical, averaged", "hierarchical", "average", "0.5,1,2"),
)
"""The network with the hierarchical attention, fused without it: what of a difference is the training's."""


class Study(NamedTuple):
    """What was asked for."""

    camvid: Path
    weights: Path
    out: Path
    steps: int
    seeds: int
    trainings: tuple[Fusion, ...] = TRAINED
    precise_bn: int = 200

    @property
    def ways(self) -> list[Way]:
        """Those of the networks that are trained."""
        return [way for way in (*WAYS, *WITHOUT_ITS_ATTENTION) if way.trained in self.trainings]

    def train(self, attention: Fusion, seed: int) -> None:
        """Train one network in a process of its own, unless that is done, and note its time and largest memory."""
        run = self.out / f"seed-{seed}" / attention
        if (run / "process.json").is_file():
            return
        fresh = not run.exists()
        run.mkdir(parents=True, exist_ok=True)
        print(f"{time.strftime('%H:%M:%S')} train seed {seed} {attention}", flush=True)
        started = time.monotonic()
        peak = _run(
            [
                *("train", "--fine-images", f"{self.camvid}/images/train"),
                *("--fine-labels", f"{self.camvid}/labels_fine/train", "--classes", _CLASSES),
                *("--encoder-weights", str(self.weights), "--crop", f"{_CROP[1]}x{_CROP[0]}", "--batch", str(_BATCH)),
                *("--steps", str(self.steps), "--attention", attention, "--seed", str(seed)),
                *("--precise-bn", str(self.precise_bn)),
                *("--device", "cpu", "--workers", "0", "--index", f"{self.out}/index.npz", "--out", str(run)),
            ],
            run / "train.txt",
        )
        found = {"seconds": time.monotonic() - started, "peak_bytes": peak}
        _write(run / "process.json", found if fresh else dict.fromkeys(found))

    def evaluate(self, way: Way, seed: int) -> None:
        """Judge one way of labelling on the validation images, unless that is done."""
        saved = self.scores_of(way, seed)
        if saved.is_file():
            return
        print(f"{time.strftime('%H:%M:%S')} evaluate seed {seed} {way.name} {way.scales}", flush=True)
        answer = saved.with_suffix(".txt")
        _run(
            [
                *("evaluate", "--checkpoint", f"{self.out}/seed-{seed}/{way.trained}/checkpoint.pt"),
                *("--scales", way.scales, *(() if way.fusion is None else ("--fusion", way.fusion))),
                *("--images", f"{self.camvid}/images/val", "--truth", f"{self.camvid}/labels_fine/val"),
                *("--classes", _CLASSES, "--device", "cpu", "--json"),
            ],
            answer,
        )
        _write(saved, json.loads(answer.read_text().splitlines()[-1]))

    def scores_of(self, way: Way, seed: int) -> Path:
        """The file of one judgement."""
        return self.out / f"seed-{seed}" / f"{way.name.replace(', ', '-')}-{way.scales.replace(',', '-')}.json"


def _run(arguments: Sequence[str], output: Path) -> int:
    """Run one command of autocoarse to its end; returns the largest resident size of its process, bytes."""
    with output.open("w") as file, Path(f"{output}.err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", "from cli.main import main; main()", *arguments], stdout=file, stderr=errors
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"`autocoarse {' '.join(arguments)}` failed with {process.returncode}: see {output}.err")
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _write(path: Path, content: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def count(attention: Fusion, crop: tuple[int, int] = _CROP) -> TrainingCost:
    """What a training step costs, without training."""
    recipe = TrainingRecipe(attention=attention, crop=crop, batch=_BATCH)
    return measure_cost(recipe.spec(len(load_schema(_CLASSES))), recipe)


def costs() -> dict[str, dict[str, float]]:
    """Of each training: operations of a step relative to single, with and without the attention's head, and memory."""
    single = count("single").flops

    def bare(scales: Sequence[float]) -> float:
        crops = [(int(_CROP[0] * scale), int(_CROP[1] * scale)) for scale in scales]
        return sum(count("single", crop).flops for crop in crops) / single

    found = {}
    for attention in ("single", "average", "explicit", "hierarchical"):
        cost = count(attention)
        scales = {"explicit": (0.5, 1, 2), "hierarchical": (0.5, 1)}.get(attention, (1,))
        found[attention] = {
            "step_flops": cost.flops,
            "operations": cost.flops / single,
            "operations_without_head": bare(scales),
            "planned_bytes": cost.memory_bytes,
        }
    return found


def collect(study: Study, seeds: Sequence[int]) -> dict[str, Any]:
    """All figures of the seeds that are complete."""
    ways = []
    for way in study.ways:
        scores = [json.loads(study.scores_of(way, seed).read_text()) for seed in seeds]
        ways.append(
            way._asdict() | {"miou": [one["miou"] for one in scores], "class_iou": [one["iou"] for one in scores]}
        )
    runs = {
        attention: [json.loads((study.out / f"seed-{seed}" / attention / "process.json").read_text()) for seed in seeds]
        for attention in study.trainings
    }
    return {"steps": study.steps, "seeds": list(seeds), "ways": ways, "runs": runs, "costs": costs()}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    heads = [
        *("way", "labels at", "operations", "without head", "planned memory", "peak memory", "seconds"),
        *("mIoU", "deviation", "by seed", "over single"),
    ]
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    single = results["ways"][0]["miou"]
    for way in results["ways"]:
        cost, runs = results["costs"][way["trained"]], results["runs"][way["trained"]]
        peaks, seconds = ([run[name] for run in runs if run[name]] for name in ("peak_bytes", "seconds"))
        gains = [100 * (one - base) for one, base in zip(way["miou"], single, strict=True)]
        cells = [
            way["name"],
            way["scales"],
            f"{cost['operations']:.2f}",
            f"{cost['operations_without_head']:.2f}",
            f"{cost['planned_bytes'] / 1e9:.2f} GB",
            f"{max(peaks) / 1e9:.2f} GB" if peaks else "-",
            f"{statistics.mean(seconds):.0f}" if seconds else "-",
            f"{100 * statistics.mean(way['miou']):.2f}",
            f"{100 * statistics.stdev(way['miou']):.2f}" if len(gains) > 1 else "-",
            ", ".join(f"{100 * one:.2f}" for one in way["miou"]),
            "-" if way is results["ways"][0] else _gain(gains),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    names = list(results["ways"][0]["class_iou"][0])
    shown = [way for way in results["ways"] if "," not in way["name"]]
    lines += ["", f"| class | {' | '.join(way['name'] + ' ' + way['scales'] for way in shown)} |"]
    lines.append("|---|" + "---:|" * len(shown))
    for name in names:
        means = (100 * statistics.mean(one[name] for one in way["class_iou"]) for way in shown)
        lines.append(f"| {name} | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    return "\n".join(lines) + "\n"


def _gain(gains: Sequence[float]) -> str:
    """Mean and standard error of the differences between networks of one seed."""
    error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.2f}" if len(gains) > 1 else ""
    return f"{statistics.mean(gains):+.2f}{error}"


def main() -> None:
    """Read the command line, train and judge what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True, help="the data set's folder, as docs/camvid.md has it")
    parser.add_argument("--weights", type=Path, required=True, help="pretrained weights of the encoder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precise-bn", type=int, default=200, help="as of `train`")
    parser.add_argument("--trainings", default=TRAINED, type=lambda text: tuple(text.split(",")), help="single first")
    study = Study(**vars(parser.parse_args()))
    if study.trainings[0] != "single" or not set(study.trainings) <= set(TRAINED):
        parser.error(f"--trainings {','.join(study.trainings)}: expected single first, then any of {TRAINED[1:]}")
    study.out.mkdir(parents=True, exist_ok=True)
    asked = {"steps": study.steps, "crop": list(_CROP), "batch": _BATCH, "precise_bn": study.precise_bn}
    saved = study.out / "asked.json"
    if saved.is_file() and json.loads(saved.read_text()) != asked:
        parser.error(f"{study.out} holds runs of other settings, {saved.read_text()}: name another --out")
    _write(saved, asked)
    for seed in range(study.seeds):
        for attention in study.trainings:
            study.train(attention, seed)
        for way in study.ways:
            study.evaluate(way, seed)
        results = collect(study, range(seed + 1))
        _write(study.out / "results.json", results)
        (study.out / "table.md").write_text(table(results))
    print((study.out / "table.md").read_text())


if __name__ == "__main__":
    main()
