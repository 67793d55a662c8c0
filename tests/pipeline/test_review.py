"""The review loop: labels go to a tool's format and come back, exact, or not at all."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline import review_formats
from pipeline.export_manifest import MANIFEST, read_manifest
from pipeline.exporting import ExportSettings, export
from pipeline.review_formats import FORMATS, open_writer, read_annotations
from pipeline.review_import import ImportResult, ImportReviewSettings, import_review
from pipeline.review_regions import FormatName, ReviewImage, compose
from storage.errors import (
    AutocoarseError,
    DiskFullError,
    ForeignSettingsError,
    ImageError,
    LabelError,
    LayoutError,
    SettingsError,
    WorkspaceError,
)
from storage.label_map import LabelMap
from storage.label_png import read_label_values, read_provenance
from storage.ledger import Ledger
from storage.schema import ClassInfo, ClassSchema
from storage.workspace import Workspace

NAMES: tuple[FormatName, ...] = get_args(FormatName)
FILES = {
    "cvat": "annotations.xml",
    "coco": "annotations/instances_default.json",
    "label-studio": "tasks.json",
    "datumaro": "annotations/default.json",
}
LABELS = {
    "a/1": [[0, 0, 1], [255, 2, 2]],
    "b/1": [[255, 255, 255], [255, 1, 255]],
    "c d&<": [[2, 2, 2], [2, 2, 2]],
}
ODD = ClassSchema("odd", (ClassInfo("a<b&\"c'", (1, 2, 3), (0,)), ClassInfo("ignore", (0, 0, 0), (1,))))


def submit(path: Path) -> None:
    """What Label Studio does with predictions that somebody submits."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    path.write_text(json.dumps(tasks))


label_values = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 255])
)


@pytest.mark.parametrize("name", NAMES)
@given(first=label_values, second=label_values)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_in_a_format_is_read_with_the_same_pixels_and_classes(
    tmp_path: Path, name: FormatName, first: np.ndarray, second: np.ndarray
) -> None:
    """Ignored pixels, single pixels, images of any shape and odd names come back as they were."""
    labels = [LabelMap(values, len(ODD)) for values in (first, second)]
    images = [ReviewImage(f"x y/{n}", f"x y/{n}.jpg", i.height, i.width, 1, 1, "", "") for n, i in enumerate(labels)]
    writer = open_writer(name, tmp_path, ODD, images, "http://host/")
    for image, label in zip(images, labels, strict=True):
        writer.add(image, label)
    writer.close()
    if name == "label-studio":
        submit(tmp_path / FILES[name])
    found = list(read_annotations(tmp_path / FILES[name], name))
    assert len(found) == 2
    for one, image, label in zip(found, images, labels, strict=True):
        assert one.name in (image.key, image.file)
        assert one.size in (image.size, None)
        read, claimed_again = compose(one.regions, image.size, ODD, drawn=FORMATS[name].is_drawn)
        np.testing.assert_array_equal(read.values, label.values)
        assert claimed_again == 0


@pytest.fixture
def data(tmp_path: Path, make_run: Callable[..., Path], make_image: Callable[..., object]) -> Path:
    """A run of three labels, and its images."""
    for key in LABELS:
        make_image(tmp_path / f"images/{key}.png", (2, 3))
    make_run(tmp_path / "run", tmp_path / "images", LABELS)
    return tmp_path


def hand_out(data: Path, name: FormatName = "coco", **changes: Any) -> Path:
    """Export all labels, and return the file of annotations."""
    out = changes.pop("out", data / f"export-{name}")
    values = {"run": data / "run", "images": data / "images", "to": name, "select": ("all",), "out": out} | changes
    for _ in export(ExportSettings.checked(**values)):
        pass
    if name == "label-studio":
        submit(out / FILES[name])
    return out / FILES[name]


def take_back(data: Path, file: Path, name: FormatName = "coco", **changes: Any) -> ImportResult:
    """Import a file of annotations."""
    values = {"file": file, "export": data / f"export-{name}", "out": data / "reviewed"} | changes
    *_, last = import_review(ImportReviewSettings.checked(**values))
    assert last.result is not None
    return last.result


def labels_of(run: Path) -> dict[str, list[list[int]]]:
    """Values of a run's labels by key."""
    root = run / "labels"
    found = root.rglob("*.png")
    return {p.relative_to(root).with_suffix("").as_posix(): read_label_values(p).tolist() for p in found}


def edit(file: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", NAMES)
def test_labels_that_nobody_changed_come_back_as_they_were(data: Path, name: FormatName) -> None:
    """The reviewed run has the same pixels, says so of each label, and is kept apart from the teacher's."""
    before = labels_of(data / "run")
    result = take_back(data, hand_out(data, name), name)
    assert (result.imported, result.unchanged, result.changed_pixels, result.total) == (3, 3, 0, 3)
    assert labels_of(data / "reviewed") == before == LABELS
    provenance = read_provenance(data / "reviewed/labels/a/1.png")
    assert (provenance["kind"], provenance["format"], provenance["changed"]) == ("reviewed", name, 0)
    with Ledger(data / "run/ledger.sqlite", read_only=True) as mine, Ledger(data / "reviewed/ledger.sqlite") as theirs:
        handed_out, reviewed = mine.get("a/1"), theirs.get("a/1")
        assert handed_out is not None
        assert reviewed is not None
        assert reviewed.image_sha256 == handed_out.image_sha256
        assert theirs.note("a/1") == (theirs.note("a/1") or {}) | {"of": handed_out.sha256, "changed": 0}


def test_an_export_holds_the_images_with_their_names(data: Path) -> None:
    """Images are second names of the same files, copies, or left out, as was asked for."""
    hand_out(data)
    linked = data / "export-coco/images/a/1.png"
    assert linked.samefile(data / "images/a/1.png")
    hand_out(data, out=data / "copied", image_files="copy")
    copy = data / "copied/images/a/1.png"
    assert copy.read_bytes() == linked.read_bytes()
    assert not copy.samefile(linked)
    hand_out(data, out=data / "bare", image_files="none")
    assert not (data / "bare/images").exists()
    assert [image.key for image in read_manifest(data / "bare").images] == list(LABELS)


def test_an_export_that_fails_leaves_nothing(data: Path, make_image: Callable[..., object]) -> None:
    """An image that is not the labelled one ends it, and no folder is there; one that is there is not touched."""
    make_image(data / "images/b/1.png", (2, 3), 99)
    with pytest.raises(ImageError, match="not the one that was labelled"):
        hand_out(data)
    assert sorted(path.name for path in data.iterdir()) == ["images", "run"]
    (data / "export-coco").mkdir()
    (data / "export-coco/mine").touch()
    with pytest.raises(SettingsError, match="choose another --out"):
        hand_out(data)
    (data / "images/b/1.png").unlink()
    with pytest.raises(LayoutError, match="1 of 3 selected labels have no image"):
        hand_out(data, out=data / "other")


def test_two_exports_at_a_time_do_not_mix(data: Path) -> None:
    """The second one is told so, and what the first makes is whole: as many labels in the tool's file as handed out."""
    out = data / "export-coco"
    values = {"run": data / "run", "images": data / "images", "to": "coco", "out": out}
    first = export(ExportSettings.checked(**values, select=("all",)))
    next(first)
    with pytest.raises(WorkspaceError, match="another autocoarse process"):
        list(export(ExportSettings.checked(**values, select=("ignore:1",))))
    *_, last = first
    assert last.manifest is not None
    assert len(last.manifest.images) == len(LABELS)
    assert take_back(data, out / FILES["coco"]).imported == len(LABELS)


def test_a_corrected_label_comes_back_and_its_changed_pixels_are_counted(data: Path) -> None:
    """What was renamed to another class, and what was erased, is in the reviewed label."""
    file = hand_out(data)
    ids = {"road": 1, "pole": 2, "sky": 3}

    def correct(content: Any) -> None:
        mine = [one for one in content["annotations"] if one["image_id"] == 1]
        mine[0]["category_id"] = ids["sky"]  # two pixels of road
        content["annotations"].remove(mine[1])  # one pixel of pole

    edit(file, correct)
    result = take_back(data, file)
    assert (result.changed_pixels, result.unchanged) == (3, 2)
    assert labels_of(data / "reviewed")["a/1"] == [[2, 2, 255], [255, 2, 2]]
    only = take_back(data, file, out=data / "only", changed_only=True)
    assert (only.imported, only.left_out) == (1, 2)


def test_the_region_on_top_has_the_pixel_and_where_there_is_no_top_it_is_ignored(data: Path) -> None:
    """Drawn formats follow the order that the tool shows; in COCO what two classes claim is ignored, and counted."""
    file = hand_out(data, "cvat")
    text = file.read_text()
    on_top = '<mask label="{}" rle="0, 3" left="0" top="0" width="3" height="1" z_order="{}"></mask></image>'
    file.write_text(
        text.replace("</image>", on_top.format("ignore", 2) + on_top.format("pole", 1)[:-8] + "</image>", 1).replace(
            "</image><mask", "<mask", 1
        )
    )
    result = take_back(data, file, "cvat")
    assert labels_of(data / "reviewed")["a/1"] == [[255, 255, 255], [255, 2, 2]]
    assert result.claimed_again == 3
    coco = hand_out(data)
    edit(coco, lambda c: c["annotations"].append(c["annotations"][0] | {"id": 99, "category_id": 2}))
    take_back(data, coco, out=data / "coco")
    assert labels_of(data / "coco")["a/1"] == [[255, 255, 1], [255, 2, 2]]


def test_polygons_that_people_drew_are_taken(data: Path) -> None:
    """A polygon covers the pixels whose centres it holds, in every format."""
    square = [0, 0, 2, 0, 2, 1, 0, 1]
    file = hand_out(data, "cvat")
    polygon = '<polygon label="pole" points="0,0;2,0;2,1;0,1" z_order="0"></polygon></image>'
    file.write_text(file.read_text().replace("</image>", polygon, 1))
    take_back(data, file, "cvat", out=data / "cvat")
    coco = hand_out(data)

    def draw(content: Any) -> None:
        content["annotations"][0] |= {"category_id": 2, "segmentation": [square]}

    edit(coco, draw)
    take_back(data, coco, out=data / "coco")
    datumaro = hand_out(data, "datumaro")
    drawn = {"type": "polygon", "label_id": 1, "points": square}
    edit(datumaro, lambda c: c["items"][0]["annotations"].append(drawn))
    take_back(data, datumaro, "datumaro", out=data / "datumaro")
    studio = hand_out(data, "label-studio")
    value = {"points": [[0, 0], [200 / 3, 0], [200 / 3, 50], [0, 50]], "polygonlabels": ["pole"]}
    region = {"type": "polygonlabels", "original_width": 3, "original_height": 2, "value": value}
    edit(studio, lambda c: c[0]["annotations"][0]["result"].append(region))
    take_back(data, studio, "label-studio", out=data / "studio")
    for out in ("cvat", "coco", "datumaro", "studio"):
        assert labels_of(data / out)["a/1"] == [[1, 1, 1], [255, 2, 2]], out


def rename_class(content: Any) -> None:
    """Another name for a class."""
    content["categories"][1]["name"] = "pools"


def change_mask_size(content: Any) -> None:
    """A mask of another image."""
    content["annotations"][0]["segmentation"]["size"] = [3, 2]


def change_image_size(content: Any) -> None:
    """An image that was scaled."""
    content["images"][0]["width"] = 6


def rename_image(content: Any) -> None:
    """Another name for an image."""
    content["images"][0]["file_name"] = "a/one.png"


def repeat_image(content: Any) -> None:
    """An image twice."""
    content["images"].append(content["images"][0] | {"id": 77})


def erase_all(content: Any) -> None:
    """No region at all."""
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 1]


def box_only(content: Any) -> None:
    """A box instead of a mask."""
    content["annotations"][0]["segmentation"] = []


WRONG = [
    (rename_class, r"a/1.png: 'pools' is no class .*did you mean pole"),
    (change_mask_size, r"a/1.png: a region of 'road': a mask of 2x3 pixels, but its image has 3x2"),
    (change_image_size, r"a/1.png: is 6x2 in the file, but was handed out as 3x2"),
    (rename_image, r"'a/one.png' is no image of .*did it have the name a/1"),
    (repeat_image, r"'a/1.png' stands in the files twice"),
    (erase_all, r"a/1.png: has no region"),
    (box_only, r"a/1.png: a region of 'road': an annotation has no segmentation"),
]


@pytest.mark.parametrize(("change", "match"), WRONG, ids=[change.__name__ for change, _ in WRONG])
def test_what_is_wrong_is_named_and_nothing_is_written(data: Path, change: Callable[[Any], object], match: str) -> None:
    """One bad image keeps all from being taken, unless the others are asked for."""
    file = hand_out(data)
    edit(file, change)
    with pytest.raises(LabelError, match=match) as caught:
        take_back(data, file)
    assert "nothing was imported" in str(caught.value)
    assert not (data / "reviewed").exists()
    result = take_back(data, file, skip_bad=True)
    assert result.imported >= 1
    assert result.problems
    assert ("a/1" in labels_of(data / "reviewed")) == (change is repeat_image)


def test_a_second_import_adds_and_replaces_only_when_it_is_told_to(data: Path) -> None:
    """What is there already stays as it is; another label of the same image needs --replace."""
    first = hand_out(data, out=data / "export-coco", select=("folder:a",))
    take_back(data, first)
    rest = hand_out(data, "datumaro")
    result = take_back(data, rest, "datumaro")
    assert (result.imported, result.known, result.total) == (2, 1, 3)
    stamp = (data / "reviewed/labels/c d&<.png").stat().st_mtime_ns
    edit(first, lambda c: c["annotations"][0].update(category_id=3))
    with pytest.raises(LabelError, match=r"--replace puts this in its place"):
        take_back(data, first)
    assert labels_of(data / "reviewed") == LABELS
    result = take_back(data, first, replace=True)
    assert (result.imported, result.replaced, result.total) == (1, 1, 3)
    assert labels_of(data / "reviewed")["a/1"] == [[2, 2, 1], [255, 2, 2]]
    assert (data / "reviewed/labels/c d&<.png").stat().st_mtime_ns == stamp


def test_an_import_that_was_interrupted_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk or a kill left unwritten is written by the same command, and nothing is taken for another's."""
    file = hand_out(data)
    publish = Workspace.publish

    def fail(workspace: Workspace, path: Path, content: bytes, *, small: bool = False) -> None:
        publish(workspace, path, content, small=small)
        if path.name == "1.png" and path.parent.name == "b":
            raise DiskFullError("full")

    monkeypatch.setattr(Workspace, "publish", fail)
    with pytest.raises(DiskFullError):
        take_back(data, file)
    monkeypatch.undo()
    result = take_back(data, file)
    assert (result.imported, result.replaced, result.total) == (3, 0, 3)
    assert labels_of(data / "reviewed") == LABELS


def test_labels_of_others_are_never_written_over(data: Path) -> None:
    """A teacher's run, a label changed by hand, and the export itself are no place for reviewed labels."""
    file = hand_out(data)
    with pytest.raises(ForeignSettingsError, match="choose another --out"):
        take_back(data, file, out=data / "run")
    with pytest.raises(SettingsError, match="lies in the export"):
        take_back(data, file, out=data / "export-coco/out")
    take_back(data, file)
    path = data / "reviewed/labels/a/1.png"
    path.write_bytes((data / "run/labels/b/1.png").read_bytes())
    edit(file, lambda c: c["annotations"][0].update(category_id=3))
    with pytest.raises(LabelError, match="was not made by this run"):
        take_back(data, file, replace=True)


def test_what_was_handed_out_must_be_there_to_compare_with(data: Path) -> None:
    """An exported label that was changed, and a manifest that is damaged, are errors."""
    file = hand_out(data)
    (data / "export-coco/exported-labels/a/1.png").write_bytes(b"")
    with pytest.raises(LabelError, match="is not the label that was handed out"):
        take_back(data, file)
    (data / f"export-coco/{MANIFEST}").write_text("{}")
    with pytest.raises(SettingsError, match="is no manifest of version 1"):
        take_back(data, file)


def test_a_zip_and_a_folder_are_read_like_the_files_in_them(data: Path) -> None:
    """Members are read where they are; images and hidden files in them are passed over."""
    file = hand_out(data, "cvat")
    with zipfile.ZipFile(data / "task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "task 1/annotations.xml")
        archive.writestr("../../evil/annotations.xml", "rubbish")
        archive.writestr("__MACOSX/annotations.xml", "rubbish")
        archive.writestr("images/a/1.png", "rubbish")
    assert take_back(data, data / "task.zip", "cvat").imported == 3
    assert not (data.parent / "evil").exists()
    assert take_back(data, file.parent, "cvat").known == 3


def test_names_are_found_when_a_tool_puts_folders_before_them_or_drops_them(data: Path) -> None:
    """The end of a path will do where no other image has it, and where another has it, it will not."""
    file = hand_out(data)
    edit(file, lambda c: c["images"][0].update(file_name="uploads\\images\\a\\1.png"))
    edit(file, lambda c: c["images"][2].update(file_name="c d&<.jpg"))
    with pytest.raises(LabelError, match=r"'c d&<.jpg' is no image"):
        take_back(data, file)
    edit(file, lambda c: c["images"][2].update(file_name="flat/c d&<.png"))
    assert take_back(data, file).imported == 3
    edit(file, lambda c: c["images"][0].update(file_name="1.png"))
    with pytest.raises(LabelError, match=r"'1.png' is no image"):
        take_back(data, file)


def test_only_what_was_submitted_in_label_studio_is_a_review(data: Path) -> None:
    """Predictions are the teacher's; of two annotations nobody knows which is meant; what turned images is refused."""
    file = hand_out(data, "label-studio")
    content = json.loads(file.read_text())
    predictions = [{"data": one["data"], "predictions": one["annotations"]} for one in content]
    file.write_text(json.dumps(predictions))
    with pytest.raises(LabelError, match="annotations must be submitted"):
        take_back(data, file, "label-studio")
    cancelled = content[1]["annotations"][0] | {"was_cancelled": True}
    file.write_text(json.dumps([predictions[0], content[1] | {"annotations": [*content[1]["annotations"], cancelled]}]))
    result = take_back(data, file, "label-studio")
    assert (result.imported, result.missing) == (1, 2)
    for change, match in (
        (lambda c: c[1]["annotations"].append(content[1]["annotations"][0]), "2 annotations were submitted"),
        (lambda c: c[1]["annotations"][0]["result"][0].update(image_rotation=90), "turned by 90 degrees"),
        (lambda c: c[1]["annotations"][0]["result"][0].update(type="rectanglelabels"), "use the brush or a polygon"),
        (lambda c: c[1]["annotations"][0]["result"][0]["value"].update(rle=[256]), "less than or equal to 255"),
    ):
        file.write_text(json.dumps(content))
        edit(file, change)
        with pytest.raises(LabelError, match=match):
            take_back(data, file, "label-studio")


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>'
EXTERNAL = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations></annotations>'
IMAGE = '<annotations><image id="0" name="a/1.png" width="3" height="2">{}</image></annotations>'
HOSTILE = [
    ("cvat", BOMB, "has a document type"),
    ("cvat", EXTERNAL, "has a document type"),
    ("cvat", "<annotations><image", "is no XML, or was cut off"),
    ("cvat", "", "is no XML"),
    ("cvat", '<annotations><track id="0" label="road"></track></annotations>', "CVAT for images 1.1"),
    ("cvat", '<annotations><image name="a/1.png" width="9e9" height="2"></image></annotations>', "no whole numbers"),
    ("cvat", IMAGE.format('<mask label="road" rle="0,6" left="1" top="0" width="3" height="2"/>'), "lies outside"),
    ("cvat", IMAGE.format('<mask label="road" rle="0,99999999999" left="0" top="0" width="3" height="2"/>'), "add up"),
    (
        "cvat",
        IMAGE.format(f'<mask label="road" rle="{"0," * 99}6" left="0" top="0" width="3" height="2"/>'),
        "more than",
    ),
    ("cvat", IMAGE.format('<mask label="road" rle="x" left="0" top="0" width="3" height="2"/>'), "no whole numbers"),
    ("cvat", IMAGE.format('<mask label="road" rle="6"/>'), "no whole numbers for left"),
    ("cvat", IMAGE.format('<polygon label="road" points="1,1;2"/>'), "3 to 100000 corners"),
    ("cvat", IMAGE.format('<polygon label="road" points="a,b"/>'), "no numbers"),
    ("cvat", IMAGE.format('<box label="road" xtl="0" ytl="0" xbr="1" ybr="1"/>'), "draw a mask or a polygon"),
    ("coco", "[" * 100_000, "is no COCO file of instances"),
    ("coco", '{"images": []}', "is no COCO file of instances: categories"),
    ("coco", '{"images": [], "categories": [], "annotations": [{"image_id": 1, "category_id": 1}]}', "does not name"),
    (
        "coco",
        '{"images": [], "categories": [{"id": 1, "name": "road"}], "annotations": [{"image_id": 1, "category_id": 1}]}',
        "does not list",
    ),
    ("label-studio", '[{"id": 1, "label": [{"rle": [1]}]}]', "not JSON-MIN"),
    (
        "datumaro",
        '{"categories": {"label": {"labels": []}}, "items": [{"id": "a/1", "annotations": [{"type": "mask"}]}]}',
        "there are 0 labels",
    ),
]


@pytest.mark.parametrize(("name", "content", "match"), HOSTILE)
def test_hostile_or_damaged_files_are_refused(data: Path, name: FormatName, content: str, match: str) -> None:
    """Nothing is expanded, fetched or allocated for a file that claims too much, and every error is one of ours."""
    hand_out(data, name)
    file = data / "back"
    file.write_text(content)
    with pytest.raises(LabelError, match=match):
        take_back(data, file, name)


@pytest.mark.parametrize("counts", ["[6]", "[0, 6, 4]", "[-1, 7]", '"Z9"', '"é"', f'"{"0" * 99}"', "[1e99]", "null"])
def test_run_lengths_of_coco_are_checked_before_they_are_used(data: Path, counts: str) -> None:
    """Whatever stands for a mask's run lengths gives the mask or an error of ours."""
    file = hand_out(data)
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = "HERE"
    file.write_text(json.dumps(content).replace('"HERE"', f'{{"size": [2, 3], "counts": {counts}}}'))
    if counts == "[6]":
        assert take_back(data, file).changed_pixels == 2
    else:
        with pytest.raises(LabelError):
            take_back(data, file)


def test_a_zip_that_unpacks_to_too_much_or_is_damaged_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is unpacked than the limit, whatever the archive says of itself."""
    file = hand_out(data, "cvat")
    archive = data / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("annotations.xml", b" " * 100_000)
    monkeypatch.setattr(review_formats, "MAX_BYTES", 50_000)
    for much in (archive, data / "large.xml"):
        (data / "large.xml").write_bytes(b" " * 100_000)
        with pytest.raises(LabelError, match="export fewer images"):
            take_back(data, much, "cvat")
    monkeypatch.undo()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(archive, "w", method) as written:
            written.write(file, "annotations.xml")
        whole = archive.read_bytes()
        for place in (60, 100, whole.rindex(b"PK\x01\x02") + 6):  # of the content, and of the version that it needs
            damaged = bytearray(whole)
            damaged[place] ^= 255
            archive.write_bytes(damaged)
            with pytest.raises(LabelError, match="cannot be read as a zip"):
                take_back(data, archive, "cvat")
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("readme.txt", "nothing")
    with pytest.raises(LabelError, match="say the --format it has"):
        take_back(data, archive, "cvat")


def test_names_that_xml_cannot_hold_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A control character in a name is an error of the export, not a file that CVAT cannot read."""
    image = ReviewImage("a\x01", "a\x01.png", 1, 1, 1, 1, "", "")
    with pytest.raises(AutocoarseError, match="XML cannot hold"):
        open_writer("cvat", tmp_path, ODD, [image], "")
    assert not list(tmp_path.iterdir())
