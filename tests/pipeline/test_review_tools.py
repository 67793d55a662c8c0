"""What is written for annotation tools, read by the tools' own code; each test is skipped where its tool is not there.

pycocotools comes with the test extra. datumaro, cvat-sdk and label-studio-sdk ask for other versions of packages that
autocoarse has, so they belong into an environment of their own: docs/review.md says how.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.exporting import ExportSettings, export
from pipeline.review_import import ImportResult, ImportReviewSettings, import_review
from pipeline.review_regions import FormatName
from storage.label_png import read_label_values
from storage.schema import IGNORE, ClassSchema


@pytest.fixture
def labels() -> dict[str, np.ndarray]:
    """Labels with single pixels, ignored ones, and sides that differ."""
    generator = np.random.default_rng(5)
    values = np.array([0, 1, 2, IGNORE], np.uint8)
    blocks = generator.choice(values, (7, 9)).repeat(11, 0).repeat(7, 1)
    return {
        "city/frame 1": blocks,
        "city/frame 2": generator.choice(values, (20, 33)),
        "other/frame 3": np.full((3, 50), 1, np.uint8),
    }


@pytest.fixture
def data(
    tmp_path: Path, make_run: Callable[..., Path], make_image: Callable[..., object], labels: dict[str, np.ndarray]
) -> Path:
    """A run of these labels, and its images."""
    for key, values in labels.items():
        make_image(tmp_path / f"images/{key}.png", values.shape)
    make_run(tmp_path / "run", tmp_path / "images", labels)
    return tmp_path


def hand_out(data: Path, name: FormatName) -> Path:
    """Export all labels, and return the folder."""
    values = {"run": data / "run", "images": data / "images", "to": name, "select": ("all",), "out": data / "export"}
    for _ in export(ExportSettings.checked(**values)):
        pass
    return data / "export"


def take_back(data: Path, file: Path, name: FormatName) -> ImportResult:
    """Import what a tool wrote."""
    settings = ImportReviewSettings(file=file, export=data / "export", format=name, out=data / "reviewed")
    *_, last = import_review(settings)
    assert last.result is not None
    return last.result


def put_together(parts: list[tuple[str, np.ndarray]], like: np.ndarray, schema: ClassSchema) -> np.ndarray:
    """Label values of masks by class name; no pixel may be in two."""
    values = np.full(like.shape, IGNORE, np.uint8)
    for name, mask in parts:
        inside = np.asarray(mask, np.bool_)
        assert (values[inside] == IGNORE).all()
        values[inside] = schema.names.index(name)
    return values


def test_pycocotools_reads_the_same_pixels_and_classes(
    data: Path, labels: dict[str, np.ndarray], schema: ClassSchema
) -> None:
    """The COCO API loads the file, and its masks, areas and boxes are those of the labels."""
    coco_api = pytest.importorskip("pycocotools.coco")
    masks = pytest.importorskip("pycocotools.mask")
    coco = coco_api.COCO(str(hand_out(data, "coco") / "annotations/instances_default.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == [*schema.names, "ignore"]
    for image in coco.loadImgs(coco.getImgIds()):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        parts = [(coco.cats[one["category_id"]]["name"], coco.annToMask(one)) for one in found]
        key = image["file_name"].removesuffix(".png")
        np.testing.assert_array_equal(put_together(parts, labels[key], schema), labels[key])
        for one in found:
            rle = coco.annToRLE(one)
            assert (masks.area(rle), masks.toBbox(rle).tolist()) == (one["area"], one["bbox"])


def test_masks_that_pycocotools_wrote_are_taken_back(data: Path, labels: dict[str, np.ndarray]) -> None:
    """Run lengths by the COCO API, as text and as numbers, are read as the pixels that they are."""
    masks = pytest.importorskip("pycocotools.mask")
    file = hand_out(data, "coco") / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    keys = {image["id"]: image["file_name"].removesuffix(".png") for image in content["images"]}
    for number, one in enumerate(content["annotations"]):
        mask = (labels[keys[one["image_id"]]] == one["category_id"] - 1).astype(np.uint8)
        encoded = masks.encode(np.asfortranarray(mask))
        one["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        if number % 2:
            flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
            edges = np.flatnonzero(np.diff(flat) != 0)
            one["segmentation"]["counts"] = np.diff(np.concatenate([[0], edges])).tolist()
    file.write_text(json.dumps(content))
    assert take_back(data, file, "coco").changed_pixels == 0


def datumaro_labels(folder: Path, name: str) -> dict[str, tuple[list[tuple[str, np.ndarray]], Any]]:
    """Masks by class name, and the image, of each item that datumaro reads in a folder."""
    datumaro = pytest.importorskip("datumaro")
    dataset = datumaro.Dataset.import_from(str(folder), name)
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label].items]
    found = {}
    for item in dataset:
        masks = [one for one in item.annotations if one.type == datumaro.AnnotationType.mask]  # COCO's boxes are others
        found[item.id] = ([(names[one.label], one.image) for one in masks], item.media)
    return found


@pytest.mark.parametrize("name", ["datumaro", "cvat", "coco"])
def test_datumaro_reads_the_same_pixels_and_classes(
    data: Path, labels: dict[str, np.ndarray], schema: ClassSchema, name: FormatName
) -> None:
    """Datumaro imports the export's folder, in its own format, CVAT's and COCO's, and finds the images."""
    pytest.importorskip("datumaro")
    found = datumaro_labels(hand_out(data, name), name)
    assert found.keys() == labels.keys()
    for key, (parts, media) in found.items():
        np.testing.assert_array_equal(put_together(parts, labels[key], schema), labels[key])
        assert media.size == labels[key].shape
        assert media.data.shape[:2] == labels[key].shape


@pytest.mark.parametrize("name", ["datumaro", "cvat", "coco"])
def test_what_datumaro_wrote_is_taken_back(data: Path, name: FormatName) -> None:
    """A data set that went through datumaro comes back with every pixel."""
    datumaro = pytest.importorskip("datumaro")
    dataset = datumaro.Dataset.import_from(str(hand_out(data, name)), name)
    # without this datumaro turns masks of COCO into polygons, which are not exact
    options = {"segmentation_mode": "mask"} if name == "coco" else {}
    dataset.export(str(data / "back"), name, save_media=False, **options)
    result = take_back(data, data / "back", name)
    assert (result.imported, result.changed_pixels) == (3, 0)


def test_cvat_s_own_code_reads_the_same_masks(data: Path, labels: dict[str, np.ndarray]) -> None:
    """The run lengths and boxes in the XML are the points that CVAT's SDK decodes, and the ones that it encodes."""
    cvat = pytest.importorskip("cvat_sdk.masks")
    tree = pytest.importorskip("defusedxml.ElementTree").parse(hand_out(data, "cvat") / "annotations.xml")
    names = [one.findtext("name") for one in tree.iter("label")]
    assert names == ["road", "pole", "sky", "ignore"]
    for image in tree.iter("image"):
        values = labels[image.attrib["name"].removesuffix(".png")]
        for mask in image.iter("mask"):
            left, top, width, height = (int(mask.attrib[side]) for side in ("left", "top", "width", "height"))
            points = [int(run) for run in mask.attrib["rle"].split(",")] + [
                left,
                top,
                left + width - 1,
                top + height - 1,
            ]
            expected = values == names.index(mask.attrib["label"])
            decoded = cvat.decode_mask(points, image_width=values.shape[1], image_height=values.shape[0])
            np.testing.assert_array_equal(decoded, expected)
            assert cvat.encode_mask(expected) == points


def converter() -> Any:
    """Label Studio's own brush code, in either of the packages that have it."""
    try:
        from label_studio_sdk.converter import brush
    except ImportError:
        brush = pytest.importorskip("label_studio_converter.brush")
    return brush


def test_label_studio_s_converter_reads_the_same_brushes(
    data: Path, labels: dict[str, np.ndarray], schema: ClassSchema
) -> None:
    """Each brush in the tasks is, for Label Studio's converter, the mask of its class."""
    brush = converter()
    for task in json.loads((hand_out(data, "label-studio") / "tasks.json").read_text()):
        values = labels[task["data"]["key"]]
        parts = []
        for one in task["predictions"][0]["result"]:
            flat = {**one, **one["value"]}
            ((name, mask),) = brush.decode_from_annotation("label", [flat]).items()
            parts.append((name.split("-")[1], mask > 0))
        np.testing.assert_array_equal(put_together(parts, values, schema), values)


def test_label_studio_s_own_validation_takes_the_interface_and_the_tasks(data: Path, schema: ClassSchema) -> None:
    """The labelling interface has the classes, and the tasks and predictions fit it."""
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    folder = hand_out(data, "label-studio")
    found = interface((folder / "label-config.xml").read_text())
    found.validate()
    assert list(found.get_control("label").labels) == [*schema.names, "ignore"]
    for task in json.loads((folder / "tasks.json").read_text()):
        assert task["data"]["image"].startswith("/data/local-files/?d=export/images/")
        assert found.validate_prediction(task["predictions"][0], return_errors=True) == []


def test_brushes_that_label_studio_s_converter_wrote_are_taken_back(
    data: Path, labels: dict[str, np.ndarray], schema: ClassSchema
) -> None:
    """The converter's encoding of masks, which has literal values and runs of all sizes, gives the same pixels."""
    brush = converter()
    file = hand_out(data, "label-studio") / "tasks.json"
    tasks = json.loads(file.read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
        for one in task["annotations"][0]["result"]:
            mask = labels[task["data"]["key"]] == schema.names.index(one["value"]["brushlabels"][0])
            one["value"]["rle"] = brush.mask2rle(mask.astype(np.uint8) * 255)
    file.write_text(json.dumps(tasks))
    assert take_back(data, file, "label-studio").changed_pixels == 0
    for key, values in labels.items():
        np.testing.assert_array_equal(read_label_values(data / f"reviewed/labels/{key}.png"), values)
