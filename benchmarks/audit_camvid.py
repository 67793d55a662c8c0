"""Whether an audit against coarse labels ranks classes and images as the truth does, on CamVid.

DATA holds images/, labels_fine/, labels_coarse/ and classes.json. The teacher labels val and train_extra at threshold
0.5. By class: the precision that the audit gives on train_extra, against that on val's fine labels. By image: coarse
labels of val are made from the fine ones, the audit ranks the images, and the 30 worst are compared with the rest; then
again where humans drew fewer objects, against a ranking by the bare share of disagreeing pixels.

    python benchmarks/audit_camvid.py DATA CHECKPOINT --out DIR

What was labelled stays in DIR, and is not labelled again. With --scenes DEMO instead, the folder of a finished
`autocoarse demo`, only the last part is done, on its scenes: there the ranking was chosen.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from pipeline.audit import audit_labels
from pipeline.audit_file import Audit
from pipeline.audit_ranking import BlockEvidence, expected_shares
from pipeline.evaluation import evaluate_labels
from pipeline.intervals import RatioSums
from pipeline.labelling import LabelRun
from pipeline.paired_labels import pair_labels
from pipeline.settings import LabelSettings
from storage.label_map import LabelMap
from storage.label_png import encode_label_png, read_label_png
from storage.layouts import list_labels
from storage.schema import IGNORE, ClassSchema, load_schema

WORST = 30
REPEATS = 20
MIN_RANKED = 3
"""Classes, below which a rank correlation says nothing."""
NEIGHBOURS = 10
"""Frames of the video, sorted by name, that are taken for one independent unit."""
FARTHEST_FIRST = (
    *("sky", "building", "tree", "road", "sidewalk", "fence", "pole", "sign", "car", "pedestrian", "bicyclist"),
)
MIN_OBJECT, SMALL, DROPPED = 500, 4000, 0.15
MIN_CONTOUR, TOLERANCE = 150, 6

Values = npt.NDArray[np.uint8]


class Image(NamedTuple):
    """The labels of one image, (height, width) uint8 class indices or ignore."""

    auto: Values
    coarse: Values
    truth: Values


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scenes", type=Path, metavar="DEMO")
    options = parser.parse_args()
    if options.scenes is not None:
        scenes = options.scenes / "scenes"
        schema = load_schema(str(options.scenes / "auto" / "classes.json"))
        coarse, truth = scenes / "labels_coarse" / "train_extra", scenes / "labels_fine" / "train_extra"
        compare_rankings(list(read_images(options.scenes / "auto", coarse, truth, schema)))
        return
    if options.checkpoint is None or options.out is None:
        parser.error("give DATA, CHECKPOINT and --out DIR, or --scenes DEMO")
    data = options.data
    schema = load_schema(str(data / "classes.json"))
    for split in ("train_extra", "val"):
        label(data / "images" / split, options.checkpoint, options.out / split)
    fine = data / "labels_fine" / "val"
    compare_classes(
        audit(options.out / "train_extra", data / "labels_coarse" / "train_extra", schema), options.out / "val", fine
    )
    drawn = options.out / "val_coarse"
    draw_coarse_labels(fine, drawn, schema)
    images = list(read_images(options.out / "val", drawn, fine, schema))
    compare_images(audit(options.out / "val", drawn, schema), options.out / "val", fine)
    compare_rankings(images)


def label(images: Path, checkpoint: Path, out: Path) -> None:
    """Label a split, or what is left of it."""
    settings = LabelSettings.checked(images=images, teacher=str(checkpoint), scales=(0.5, 1.0), device="cpu", out=out)
    with LabelRun(settings) as run:
        for _ in run:
            pass


def audit(labels: Path, coarse: Path, schema: ClassSchema) -> Audit:
    """What an audit finds."""
    *_, last = audit_labels(labels, coarse, schema)
    assert last.audit is not None
    return last.audit


def compare_classes(found: Audit, val: Path, fine: Path) -> None:
    """Precision by class, of the audit and of the truth."""
    schema = load_schema(str(val / "classes.json"))
    *_, last = evaluate_labels(val, fine, schema)
    truth = last.scores().precision_by_class
    print(f"{'class':12}{'audit':>8}{'95 % interval':>18}{'drawn in':>10}{'truth, val':>12}")
    for one, drawn in zip(found.classes, found.drawn_images, strict=True):
        print(
            f"{one.name:12}{100 * (one.precision or 0):8.1f}"
            f"{f'{100 * (one.precision_low or 0):.1f} - {100 * (one.precision_high or 0):.1f}':>18}{drawn:>10}"
            f"{100 * (truth[one.name] or 0):12.1f}" + ("" if one.enough else "  too little evidence")
        )
    for what, chosen in (
        ("all classes", found.classes),
        ("enough evidence", [one for one in found.classes if one.enough]),
    ):
        pairs = [(one.precision, truth[one.name]) for one in chosen]
        known = [pair for pair in pairs if None not in pair]
        if len(known) < MIN_RANKED:
            print(f"{what}: {len(known)} with a precision of both, too few to rank")
            continue
        result = spearmanr(known)
        print(f"{what}: Spearman {result.statistic:.3f} over {len(known)} classes (p {result.pvalue:.4f})")


def draw_coarse_labels(fine: Path, out: Path, schema: ClassSchema) -> None:
    """Write coarse labels made from fine ones; which small objects are left out is drawn with one seed."""
    rng = np.random.default_rng(0)
    for key, file in sorted(list_labels(fine).items()):
        truth = read_label_png(file.path, schema, file.ids).values
        path = out / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_label_png(LabelMap(draw_coarse(truth, schema, rng), len(schema))))


def draw_coarse(truth: Values, schema: ClassSchema, rng: np.random.Generator) -> Values:
    """Polygons inside of large objects, nearer classes over farther ones."""
    coarse = np.full_like(truth, IGNORE)
    for name in FARTHEST_FIRST:
        index = schema.names.index(name)
        for component in objects(truth, index):
            pixels = int(component.sum())
            small = pixels < SMALL
            if pixels < MIN_OBJECT or (small and rng.random() < DROPPED):
                continue
            reach = 3 if small else 5
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
            inside = cv2.erode(component, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
            contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            large = [one for one in contours if cv2.contourArea(one) >= MIN_CONTOUR]
            cv2.fillPoly(coarse, [cv2.approxPolyDP(one, TOLERANCE, True) for one in large], index)
    return coarse


def objects(values: Values, index: int) -> Iterator[Values]:
    """The 4-connected components of a class, as masks of 0 and 1."""
    count, components = cv2.connectedComponents((values == index).astype(np.uint8), connectivity=4)
    for number in range(1, count):
        yield (components == number).astype(np.uint8)


def read_images(auto: Path, coarse: Path, truth: Path, schema: ClassSchema) -> Iterator[Image]:
    """The labels of each image, by key."""
    pairs = pair_labels(auto, coarse, schema)
    fine = list_labels(truth, schema=schema)

    def read(key: str, label: LabelMap, drawn: LabelMap) -> Image:
        return Image(label.values, drawn.values, read_label_png(fine[key].path, schema, fine[key].ids).values)

    yield from pairs.judge(read)


def compare_images(found: Audit, val: Path, fine: Path) -> None:
    """True precision of the images that the audit ranks worst, and of the rest."""
    schema = load_schema(str(val / "classes.json"))

    def count(key: str, label: LabelMap, truth: LabelMap) -> tuple[str, int, int]:
        judged = (truth.values != IGNORE) & (label.values != IGNORE)
        return key, int((judged & (label.values == truth.values)).sum()), int(judged.sum())

    true = {key: (right, judged) for key, right, judged in pair_labels(val, fine, schema).judge(count)}
    block = {key: number // NEIGHBOURS for number, key in enumerate(sorted(true))}
    ranked = [one.key for one in found.images]
    for what, some in (
        (f"the {WORST} ranked worst", ranked[:WORST]),
        (f"the other {len(ranked) - WORST}", ranked[WORST:]),
    ):
        of_image = _interval([true[key] for key in some])
        blocks = [
            [true[key] for key in some if block[key] == number] for number in sorted({block[key] for key in some})
        ]
        of_block = _interval([(sum(right for right, _ in one), sum(judged for _, judged in one)) for one in blocks])
        print(f"{what}: true precision {of_image}; with {len(blocks)} blocks of neighbours as units {of_block}")
    result = spearmanr([-one.score for one in found.images], [true[key][0] / true[key][1] for key in ranked])
    print(f"over {len(ranked)} images: Spearman of rank and true precision {result.statistic:.3f}")


def _interval(units: list[tuple[int, int]]) -> str:
    """The share of right pixels of the judged ones, (right, judged) of each independent unit."""
    sums = RatioSums.of_image(np.zeros(1, np.int64), np.zeros(1, np.int64))
    for right, judged in units:
        sums += RatioSums.of_image(np.array([right]), np.array([judged]))
    low, high = sums.interval()
    return f"{sums.share()[0]:.2%} ({low[0]:.2%} to {high[0]:.2%})"


def compare_rankings(images: list[Image]) -> None:
    """Rank correlation with the true precision, where all is drawn and where humans drew fewer objects."""
    true = [float((one.auto == one.truth)[(one.truth != IGNORE) & (one.auto != IGNORE)].mean()) for one in images]
    for what, repeats in (("as drawn", 1), ("fewer objects drawn", REPEATS)):
        found = []
        for seed in range(repeats):
            rng = np.random.default_rng(seed)
            drawn = [one.coarse if repeats == 1 else thin_out(one.coarse, rng) for one in images]
            evidence = [_evidence(one.auto, coarse) for one, coarse in zip(images, drawn, strict=True)]
            scores = [[one.share for one in evidence], expected_shares(evidence)]
            found.append([spearmanr([-score for score in of_one], true).statistic for of_one in scores])
        bare, expected = np.mean(found, axis=0)
        print(f"{what}: Spearman of the bare share {bare:.3f}, of the expected one {expected:.3f}")


def _evidence(auto: Values, coarse: Values) -> BlockEvidence:
    judged = (coarse != IGNORE) & (auto != IGNORE)
    return BlockEvidence.of_image(judged, judged & (coarse != auto))


def thin_out(coarse: Values, rng: np.random.Generator) -> Values:
    """Keep each object with a chance that differs from image to image: the square of a uniform number."""
    chance = rng.random() ** 2
    kept = np.full_like(coarse, IGNORE)
    for index in np.unique(coarse[coarse != IGNORE]):
        for component in objects(coarse, int(index)):
            if rng.random() < chance:
                kept[component == 1] = index
    return kept


if __name__ == "__main__":
    main()
