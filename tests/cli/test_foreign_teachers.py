"""Teachers of other libraries and several together, through the commands."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from storage.label_png import read_label_values
from storage.schema import IGNORE, ClassSchema, load_schema
from teacher import load_teacher

LABELS = ["road, route", "pole", "sky", "door"]
SCALES = ("--device", "cpu", "--scales", "0.5,1", "--threshold", "0.3")


def invoke(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def images(tmp_path: Path, make_image: Callable[..., object]) -> Path:
    """Three images of two sizes."""
    for number, size in enumerate([(40, 56), (40, 56), (36, 47)]):
        make_image(tmp_path / f"images/{number}.png", size, number)
    return tmp_path / "images"


@pytest.fixture
def classes(tmp_path: Path, schema: ClassSchema) -> Path:
    """A file of the three classes road, pole and sky."""
    path = tmp_path / "three.json"
    path.write_text(json.dumps(schema.to_dict()))
    return path


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer of four labels, small and random, saved as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=16,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    network = transformers.SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        network.decode_head.classifier.weight.mul_(60)
    folder = tmp_path_factory.mktemp("model")
    network.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder)
    return folder


def describe(path: Path, model: str, classes: dict[str, str], schema: Path) -> Path:
    """Write a description of a teacher."""
    lines = [f"{json.dumps(label)} = {json.dumps(name)}" for label, name in classes.items()]
    head = f'[teacher]\nmodel = "{model}"\nschema = "{schema}"\n[classes]\n'
    path.write_text(head + "\n".join(lines) + "\n")
    return path


def labels_of(run: Path) -> dict[str, np.ndarray]:
    """The labels of a run by file name."""
    return {path.stem: read_label_values(path) for path in sorted((run / "labels").glob("*.png"))}


def test_a_model_of_transformers_labels_as_the_librarys_own_pipeline(
    segformer: Path, images: Path, tmp_path: Path
) -> None:
    """At scale 1, without a table, the labels are the classes of the library's own semantic segmentation."""
    import transformers

    how = ("--device", "cpu", "--scales", "1", "--threshold", "0", "--out", tmp_path / "run")
    result = invoke("label", "--images", images, "--teacher", f"hf:{segformer}", *how)
    assert result.exit_code == 0, result.output
    network = transformers.AutoModelForSemanticSegmentation.from_pretrained(segformer).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(segformer)
    same = []
    for name, label in labels_of(tmp_path / "run").items():
        image = Image.open(images / f"{name}.png").convert("RGB")
        with torch.inference_mode():
            output = network(**processor(images=image, return_tensors="pt"))
        (expected,) = processor.post_process_semantic_segmentation(output, target_sizes=[image.size[::-1]])
        same.append((label == expected.numpy()).ravel())
    assert np.concatenate(same).mean() > 0.999  # at a border between two classes rounding may decide
    assert len({value for label in labels_of(tmp_path / "run").values() for value in np.unique(label)}) > 1
    assert [one["name"] for one in json.loads((tmp_path / "run/classes.json").read_text())["classes"]] == [
        "road", "pole", "sky", "door"
    ]  # fmt: skip


def test_labels_become_classes_by_name_and_what_is_none_is_told(
    segformer: Path, images: Path, classes: Path, tmp_path: Path
) -> None:
    """The schema's classes are found among the labels; pixels of the other label are ignored, and the run says so."""
    own = invoke("label", "--images", images, "--teacher", f"hf:{segformer}", *SCALES, "--out", tmp_path / "own")
    assert own.exit_code == 0, own.output
    command = ["label", "--images", images, "--teacher", f"hf:{segformer}", "--classes", classes, *SCALES]
    result = invoke(*command, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "door are of no class, and ignored" in result.output
    for name, label in labels_of(tmp_path / "own").items():
        assert (labels_of(tmp_path / "run")[name] == np.where(label == 3, IGNORE, label)).all()
    again = invoke(*command, "--out", tmp_path / "run")
    assert "3 done before, 0 to label" in again.output
    other = invoke("label", "--images", images, "--teacher", f"hf:{segformer}", *SCALES, "--out", tmp_path / "run")
    assert other.exit_code != 0, "a run of other classes is another run"


def test_a_wrong_class_table_is_refused_with_what_was_meant(
    segformer: Path, images: Path, classes: Path, tmp_path: Path
) -> None:
    """A name that is no label, or no class, costs only a message with the nearest ones; so does a label left out."""
    wrong = [
        ({"road, rout": "road", "pole": "pole", "sky": "sky", "door": ""}, "road, route"),
        ({"road, route": "roads", "pole": "pole", "sky": "sky", "door": ""}, "road"),
        ({"road, route": "road", "pole": "pole", "sky": "sky"}, "door"),
    ]
    for number, (table, says) in enumerate(wrong):
        teacher = describe(tmp_path / f"{number}.toml", f"hf:{segformer}", table, classes)
        result = invoke("label", "--images", images, "--teacher", teacher, *SCALES, "--out", tmp_path / "run")
        assert result.exit_code == 2, result.output
        assert says in result.output
        assert f"{number}.toml: " in result.output
        assert not list(tmp_path.glob("run/labels/*"))
    cityscapes = ("--classes", "cityscapes", "--out", tmp_path / "run")
    result = invoke("label", "--images", images, "--teacher", f"hf:{segformer}", *SCALES, *cityscapes)
    assert result.exit_code == 2
    assert "--write teacher.toml" in result.output


def test_several_teachers_label_together(
    segformer: Path, images: Path, classes: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    """An own checkpoint and a model of transformers: where they disagree there is no label, else the class of both."""
    table = dict(zip(LABELS, ["road", "pole", "sky", ""], strict=True))
    describe(tmp_path / "hf.toml", f"hf:{segformer}", table, classes)
    members = f'members = ["hf.toml", "{tiny_teacher.name}"]\n'
    assert tiny_teacher.parent == tmp_path
    (tmp_path / "both.toml").write_text(f'[ensemble]\n{members}combine = "agreement"\n')
    for name in ("hf.toml", "both.toml", tiny_teacher.name):
        how = (*SCALES[:-1], "0", "--out", tmp_path / name.partition(".")[0])
        result = invoke("label", "--images", images, "--teacher", tmp_path / name, *how)
        assert result.exit_code == 0, result.output
    for name, label in labels_of(tmp_path / "both").items():
        one, two = (labels_of(tmp_path / run)[name] for run in ("hf", tiny_teacher.stem))
        assert (label == np.where(one == two, one, IGNORE)).mean() > 0.999
    average = load_teacher(tmp_path / "both.toml")
    (tmp_path / "both.toml").write_text(f"[ensemble]\n{members}")
    assert load_teacher(tmp_path / "both.toml").digest != average.digest


def test_a_checkpoint_of_ours_takes_a_class_table(images: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """Its classes become those of another schema, added up; and it is judged as any other network is."""
    two = tmp_path / "two.json"
    two.write_text(json.dumps({"classes": [{"name": "ground"}, {"name": "thing"}]}))
    table = {"road": "ground", "pole": "thing", "sky": "ground"}
    teacher = load_teacher(describe(tmp_path / "two.toml", str(tiny_teacher), table, two))
    image = np.array(Image.open(images / "0.png").convert("RGB"))
    own = load_teacher(tiny_teacher).logits(image, (1.0,)).softmax(0)
    expected = torch.stack([own[0] + own[2], own[1]])
    # added up where the network predicts, and only then enlarged
    assert (teacher.logits(image, (1.0,)).softmax(0) - expected).abs().mean() < 0.02
    (tmp_path / "truth").mkdir()
    for path in images.glob("*.png"):
        Image.fromarray(np.zeros(Image.open(path).size[::-1], np.uint8)).save(tmp_path / "truth" / path.name)
    result = invoke(
        "evaluate", "--checkpoint", tmp_path / "two.toml", "--images", images, "--truth", tmp_path / "truth",
        "--classes", two, "--scales", "1", "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["iou"]) == {"ground", "thing"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[teacher]\n", "teacher.model"),
        ("[teacher]\nmodel = 'x.pt'\nmodle = 'y'\n", "modle"),
        ("[teacher]\nmodel = 'x.pt'\n[ensemble]\nmembers = ['a', 'b']\n", "either"),
        ("[ensemble]\nmembers = ['a']\n", "members"),
        ("[ensemble]\nmembers = ['a', 'b']\ncombine = 'vote'\n", "combine"),
        ("[teacher]\nmodel = 'x.pt'\nstd = [0, 1, 1]\n", "std"),
        ("[teacher\n", "TOML"),
    ],
)
def test_a_description_that_is_none_says_where(images: Path, tmp_path: Path, text: str, says: str) -> None:
    """Keys, values and tables that are wrong are named."""
    (tmp_path / "t.toml").write_text(text)
    result = invoke("label", "--images", images, "--teacher", tmp_path / "t.toml", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "t.toml" in result.output
    assert says in result.output


def test_files_of_other_libraries_say_how_they_are_called(images: Path, tmp_path: Path) -> None:
    """A path alone is a checkpoint; of other files the kind has to be said, and the message says which."""
    (tmp_path / "net.onnx").touch()
    for path, says in ((tmp_path / "net.onnx", "onnx:"), (images, "hf:")):
        result = invoke("label", "--images", images, "--teacher", path, "--out", tmp_path / "run")
        assert result.exit_code == 2
        assert f"{says}{path}" in result.output
        assert f"{says}{path}" in invoke("teacher", path).output


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_student_labels_as_the_student(
    images: Path, tiny_teacher: Path, tmp_path: Path, suffix: str
) -> None:
    """Written as ONNX or as an exported program, a network gives the same labels but for one pixel in ten thousand."""
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    file = tmp_path / f"student{suffix}"
    made = invoke("export-network", tiny_teacher, "--out", file)
    assert made.exit_code == 0, made.output
    kind = "onnx" if suffix == ".onnx" else "exported"
    how = ("--device", "cpu", "--scales", "0.5,1,2", "--threshold", "0.9", "--flip", "--fusion", "average")
    for name, teacher in (("own", tiny_teacher), ("other", f"{kind}:{file}")):
        result = invoke("label", "--images", images, "--teacher", teacher, *how, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    own, other = (np.concatenate([x.ravel() for x in labels_of(tmp_path / run).values()]) for run in ("own", "other"))
    assert 0.02 < (own == IGNORE).mean() < 0.98
    assert (own == other).mean() > 0.9999
    names = [[c["name"] for c in json.loads((tmp_path / run / "classes.json").read_text())["classes"]] for run in
             ("own", "other")]  # fmt: skip
    assert names[0] == names[1]


def test_the_card_of_a_foreign_teacher_proposes_a_description(segformer: Path, classes: Path, tmp_path: Path) -> None:
    """It tells what the model says of itself, and writes a description that loads; what is there stays."""
    description = tmp_path / "teacher.toml"
    result = invoke("teacher", f"hf:{segformer}", "--classes", classes, "--write", description, "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert card["network"] == "SegformerForSemanticSegmentation"
    assert card["labels"] == LABELS
    assert card["facts"]["input size"] == "height 64, width 96"
    assert card["description"] == str(description)
    teacher, direct = load_teacher(description), load_teacher(f"hf:{segformer}", schema=load_schema(str(classes)))
    assert (teacher.schema.names, teacher.digest) == (("road", "pole", "sky"), direct.digest)
    told = invoke("teacher", description)
    assert "door are of no class" in told.output
    again = invoke("teacher", f"hf:{segformer}", "--classes", classes, "--write", description)
    assert again.exit_code == 2
    assert "already" in again.output


def test_what_cannot_be_is_refused_before_a_run_is_begun(segformer: Path, images: Path, tmp_path: Path) -> None:
    """No attention, and so no fusion by one; doctor has no plan of its memory, says so, and tells of the machine."""
    how = (*SCALES, "--fusion", "hierarchical", "--out", tmp_path / "run")
    result = invoke("label", "--images", images, "--teacher", f"hf:{segformer}", *how)
    assert result.exit_code == 2
    assert "fit-attention" in result.output
    assert not list(tmp_path.glob("run/labels/*"))
    plan = invoke("doctor", "--teacher", f"hf:{segformer}", "--size", "64x48", "--device", "cpu", "--out", tmp_path)
    assert plan.exit_code == 0, plan.output
    assert "cannot be told beforehand" in plan.output
