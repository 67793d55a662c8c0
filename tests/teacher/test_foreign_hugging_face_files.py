"""Tests for the files of a transformers model: wrong and hostile ones are refused with the reason, and none is run."""

import json
import os
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage.errors import CheckpointError, MissingFileError, SettingsError
from teacher.foreign.contract import ForeignModel, ModelSettings
from teacher.foreign.hugging_face import open_hugging_face
from tests.teacher import hugging_face_models as models
from tests.teacher.hugging_face_models import noise, run_pipeline, save_model

HOW = ModelSettings(torch.device("cpu"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may open a connection."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of a SegFormer."""
    return save_model(models.segformer, tmp_path / "model")


def edit(path: Path, change: Edit) -> None:
    """Change a file of settings."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change a file of weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def opened(folder: Path) -> ForeignModel:
    """The model, ready."""
    return open_hugging_face(str(folder), HOW)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("nested", [False, True])
def test_code_that_comes_with_a_model_is_refused_and_not_run(file: str, nested: bool, folder: Path) -> None:
    """A directory that maps classes onto a module of its own is refused, and the module is not imported."""
    trace = folder / "trace"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    auto_map = {"AutoConfig": "own.Own", "AutoImageProcessor": "own.Own", "AutoModelForSemanticSegmentation": "own.Own"}
    edit(folder / file, lambda c: c.update({"inner": {"auto_map": auto_map}} if nested else {"auto_map": auto_map}))
    with pytest.raises(CheckpointError, match=r"auto_map.*no code that comes with a model"):
        opened(folder)
    assert not trace.exists()


def test_modules_beside_a_model_are_not_imported(folder: Path) -> None:
    """Python files that a library looks for by name lie there without effect."""
    for name in ("transformers", "own", "modeling_segformer", "image_processing_segformer"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'trace')!r}, 'w')\n")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    opened(folder)
    assert not (folder / "trace").exists()


class Payload:
    """What makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_pickles_are_never_read(folder: Path) -> None:
    """A pickle beside safetensors is left alone; a directory with nothing else is refused, with the way out."""
    before = opened(folder).digest
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(str(folder / "trace"))))
    assert opened(folder).digest == before
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"only as pytorch_model\.bin.*save_pretrained"):
        opened(folder)
    assert not (folder / "trace").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(id2label=None, num_labels=10**9), "num_labels is 1000000000"),
        (lambda c: c.update(id2label={str(n): "x" for n in range(10_001)}), "id2label has 10001 labels"),
        (lambda c: c.update(id2label={"1": "x", "2": "y"}), "none of the id 0"),
        (lambda c: c["id2label"].update({"0": ["x"]}), "names 0 by no text"),
        (lambda c: c.update(hidden_sizes=[8, 8, 16, 10**9]), "hidden_sizes is 1000000000"),
        (lambda c: c.update(num_encoder_blocks=10**6), "num_encoder_blocks is 1000000, expected at most 1000"),
        (lambda c: c.update(layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
        (lambda c: c.update(hidden_sizes=[8, 8, 16, 9_000_000]), "describes a network of"),
        (lambda c: c.update(num_attention_heads=0), "cannot build a SegformerForSemanticSegmentation"),
        (lambda c: c.update(depths="many"), "cannot build a SegformerForSemanticSegmentation"),
        (lambda c: c.update(architectures=["SegformerForImageClassification"]), "expected a model of semantic"),
        (lambda c: c.update(architectures=["UperNetForSemanticSegmentation"]), "of type segformer"),
        (lambda c: c.update(architectures=["OwnModel"], model_type="own"), "is a OwnModel of type own"),
        (lambda c: c.update(architectures=["DetrForSegmentation"], model_type="detr"), "expected a model of semantic"),
        (lambda c: c.pop("architectures"), "is a None of type segformer"),
        (lambda c: c.update(quantization_config={"load_in_4bit": True}), "quantised"),
        (lambda c: c.update(depths=[2, 1, 1, 1]), r"\d+ missing: segformer"),
        (lambda c: c.update(id2label={"0": "a", "1": "b"}), r"2 of another shape: decode_head\.classifier"),
    ],
)
def test_settings_of_no_such_network_are_refused(change: Edit, reason: str, folder: Path) -> None:
    """Settings out of range, of other work, or of another network than the weights are refused with a reason."""
    edit(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=reason):
        opened(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "holds a list"),
        ("{", "is no JSON"),
        ('{"a": ' * 100_000, "is no JSON"),
        (" " * (8 << 20) + "{}", "larger than 8 MiB"),
        ('{"id2label": {"0": "\\ud800"}}', "names 0 by no text"),
        ('{"id2label": {"0": "sky\\u001b[2J"}}', "names 0 by no text"),
    ],
)
def test_settings_that_are_no_settings_are_refused(content: str, reason: str, folder: Path) -> None:
    """A damaged, endless or huge file of settings is refused."""
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=reason):
        opened(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(image_processor_type="OwnImageProcessor"), "processor is a OwnImageProcessor"),
        (lambda c: c.update(image_processor_type="Trainer"), "processor is a Trainer"),
        (lambda c: c.update(size={"height": 10**6, "width": 10**6}), "expected 1 to 4096"),
        (lambda c: c.update(size={"height": -1, "width": 5}), "expected 1 to 4096"),
        (lambda c: c.update(size={"height": "64", "width": [5]}), "expected 1 to 4096"),
        (lambda c: c.update(size="large"), "image processor"),
        (lambda c: c.update(image_mean=["a", "b", "c"]), "does not work|cannot be made"),
        (lambda c: c.update(_process="x", resize="x"), "does not work with its settings"),
    ],
)
def test_processors_that_are_none_are_refused(change: Edit, reason: str, folder: Path) -> None:
    """A processor of other code, one that reads other files, and one that fails are refused with a reason."""
    edit(folder / "preprocessor_config.json", change)
    with pytest.raises(CheckpointError, match=reason):
        opened(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.pop("decode_head.classifier.bias"), r"1 missing: decode_head\.classifier\.bias"),
        (lambda w: w.update({"decode_head.classifier.bias": torch.zeros(9)}), r"1 of another shape: decode_head\.cl"),
        (lambda w: w.update({"decode_head.second.bias": torch.zeros(9)}), r"1 unknown: decode_head\.second\.bias"),
        (lambda w: [w.pop(name) for name in list(w)[1:]], "describes a network of"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], object], reason: str, folder: Path
) -> None:
    """Weights that are missing, unknown or of another shape are named; none is filled in by chance."""
    edit_weights(folder, change)
    with pytest.raises(CheckpointError, match=reason):
        opened(folder)


def test_what_no_prediction_reads_may_be_missing_or_more(folder: Path, tmp_path: Path) -> None:
    """Counters, tables and heads of training, and DPT's first residual, are neither missed nor in the way."""
    edit_weights(folder, lambda w: w.pop("decode_head.batch_norm.num_batches_tracked"))
    edit_weights(folder, lambda w: w.update({"auxiliary_head.bias": torch.zeros(9), "position_ids": torch.arange(3)}))
    opened(folder)
    other = save_model(models.dpt, tmp_path / "dpt")
    expected = run_pipeline(other, noise(64, 64))[0].logits
    edit_weights(other, lambda w: [w.pop(name) for name in list(w) if "fusion_stage.layers.0.residual_layer1" in name])
    assert torch.equal(opened(other)(noise(64, 64), 1.0), expected)


def test_truncated_weights_are_refused(folder: Path) -> None:
    """Half a file of weights is damaged."""
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        opened(folder)


def test_predictions_by_chance_are_refused(tmp_path: Path) -> None:
    """EoMT whose mask attention is half phased out would predict otherwise each time."""
    folder = save_model(models.eomt, tmp_path)
    edit_weights(folder, lambda w: w["attn_mask_probs"].fill_(0.5))
    with pytest.raises(CheckpointError, match="partly chance"):
        opened(folder)


def test_weights_in_parts_are_put_together(folder: Path, tmp_path: Path) -> None:
    """A model in several files is the same; a part that is missing or lies elsewhere is refused."""
    images = noise(64, 96)
    expected = opened(folder)(images, 1.0)
    parts = tmp_path / "parts"
    models.pipeline_of(folder)[0].save_pretrained(parts, max_shard_size="30KB")  # type: ignore[operator]
    (parts / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    assert len(list(parts.glob("*.safetensors"))) > 1
    assert torch.equal(opened(parts)(images, 1.0), expected)
    index = parts / "model.safetensors.index.json"
    name = next(iter(json.loads(index.read_text())["weight_map"]))
    edit(index, lambda c: c["weight_map"].update({name: "../model/model.safetensors"}))
    with pytest.raises(CheckpointError, match="files beside it"):
        opened(parts)
    edit(index, lambda c: c["weight_map"].update({name: "absent.safetensors"}))
    with pytest.raises(MissingFileError, match=r"absent\.safetensors"):
        opened(parts)


def test_links_to_files_elsewhere_are_followed(folder: Path, tmp_path: Path) -> None:
    """A directory of links, as the cache of the hub is, is the same model."""
    links = tmp_path / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    assert opened(links).digest == opened(folder).digest


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(file: str, folder: Path) -> None:
    """Each of the three files has to be there."""
    (folder / file).unlink()
    with pytest.raises(MissingFileError, match=file):
        opened(folder)


def test_a_processor_among_others_settings_is_found(folder: Path) -> None:
    """The image processor may stand in processor_config.json, as newer versions write it."""
    expected = opened(folder)(noise(50, 60), 1.0)
    content = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    assert torch.equal(opened(folder)(noise(50, 60), 1.0), expected)


def test_a_processor_of_older_versions_is_known(folder: Path) -> None:
    """The name of a feature extractor, or of a fast processor, stands for the processor."""
    expected = opened(folder)(noise(50, 60), 1.0)
    path = folder / "preprocessor_config.json"
    edit(path, lambda c: c.update(image_processor_type="SegformerImageProcessorFast"))
    assert torch.equal(opened(folder)(noise(50, 60), 1.0), expected)
    edit(path, lambda c: (c.pop("image_processor_type"), c.update(feature_extractor_type="SegformerFeatureExtractor")))
    assert torch.equal(opened(folder)(noise(50, 60), 1.0), expected)
    edit(path, lambda c: c.update(size=64, reduce_labels=True, image_mean=0.5))
    assert opened(folder)(noise(50, 60), 1.0).shape[2:] == (16, 16)
    assert opened(folder).facts()["mean"] == "0.5 0.5 0.5"
    edit(path, lambda c: (c.pop("feature_extractor_type"), c.update(size=[64, 96], image_mean=[0.485, 0.456, 0.406])))
    assert torch.equal(opened(folder)(noise(50, 60), 1.0), expected)


def test_oneformers_processor_fetches_no_names_of_classes(tmp_path: Path) -> None:
    """The file of classes that OneFormer's processor names is left alone; without a tokenizer there is no task."""
    folder = save_model(models.oneformer, tmp_path)
    edit(folder / "preprocessor_config.json", lambda c: c.update(class_info_file="a.json", repo_path="org/other"))
    with pytest.raises(MissingFileError, match=r"tokenizer\.json"):
        opened(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer is none"):
        opened(folder)
    (folder / "tokenizer.json").unlink()
    models.write_tokenizer(folder)
    opened(folder)


def test_settings_that_would_fetch_have_no_effect(folder: Path) -> None:
    """Kernels from the hub, and a backbone's public weights, are not asked for."""
    expected = opened(folder)(noise(50, 60), 1.0)
    edit(
        folder / "config.json",
        lambda c: c.update(
            attn_implementation="kernels-community/flash-attn",
            _attn_implementation="kernels-community/flash-attn",
            use_pretrained_backbone=True,
            transformers_weights="/etc/passwd",
            _name_or_path="org/other",
            dtype="float16",
            return_dict=False,
        ),
    )
    assert torch.equal(opened(folder)(noise(50, 60), 1.0), expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(backbone="org/resnet", backbone_config=None), "fetched from elsewhere"),
        (
            lambda c: c.update(backbone_config={"model_type": "timm_backbone", "backbone": "hf-hub:org/other"}),
            "expected the name of a timm network",
        ),
        (
            lambda c: c.update(
                backbone_config={"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "/tmp/x"}}  # noqa: S108
            ),
            "timm_wrapper",
        ),
        (lambda c: c.update(backbone_config={"model_type": "own"}), "cannot build a UperNet"),
    ],
)
def test_backbones_from_elsewhere_are_refused(change: Edit, reason: str, tmp_path: Path) -> None:
    """A backbone that would be fetched, or built from other files, is refused."""
    folder = save_model(models.upernet_convnext, tmp_path)
    edit(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=reason):
        opened(folder)


def test_the_backbone_of_maskformers_decoder_is_not_asked_for(tmp_path: Path) -> None:
    """The settings of a whole DETR that stand for MaskFormer's decoder name a backbone that it does not have."""
    folder = save_model(models.maskformer, tmp_path)
    expected = opened(folder)(noise(50, 60), 1.0)
    edit(folder / "config.json", lambda c: c["decoder_config"].pop("backbone_config", None))
    edit(folder / "config.json", lambda c: c["decoder_config"].update(backbone="org/resnet", use_timm_backbone=False))
    assert torch.equal(opened(folder)(noise(50, 60), 1.0), expected)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("org/model", "got none"),
        ("org/model@main", "got 'main'"),
        ("org/model@", "got none"),
        ("org/model@0123abc", "got '0123abc'"),
    ],
)
def test_a_name_needs_a_commit(where: str, reason: str) -> None:
    """A name without the hash of a commit is refused, with the place where commits stand."""
    with pytest.raises(SettingsError, match=rf"{reason}.*huggingface\.co/org/model/commits/main"):
        open_hugging_face(where, HOW)


@pytest.mark.parametrize("where", ["absent", "/absent/model", "../model"])
def test_neither_a_directory_nor_a_name_is_missing(where: str) -> None:
    """What is no name of the hub is taken for a directory that is not there."""
    with pytest.raises(MissingFileError, match="expected a directory, or NAME@REVISION"):
        open_hugging_face(where, HOW)


def test_a_name_is_fetched_without_code_and_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache lacks is asked of the hub once, by its commit, and only settings and safetensors."""
    calls: list[dict[str, Any]] = []

    def download(name: str, **asked: Any) -> str:
        calls.append(asked | {"name": name})
        if asked.get("local_files_only"):
            raise FileNotFoundError("not in the cache")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = open_hugging_face(f"org/model@{COMMIT}", HOW)
    assert [(call["name"], call["revision"]) for call in calls] == [("org/model", COMMIT)] * 2
    patterns = calls[1]["allow_patterns"]
    assert patterns
    assert all(pattern.endswith((".json", ".safetensors", "merges.txt", "README.md")) for pattern in patterns)
    assert model.facts()["source"] == "org/model"
    assert model.facts()["revision"] == COMMIT
    assert model.digest == opened(folder).digest


def test_a_commit_in_the_cache_is_not_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose files are all in the cache needs no network."""

    def download(_: str, **asked: Any) -> str:
        assert asked["local_files_only"]
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    open_hugging_face(f"org/model@{COMMIT}", HOW)


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that cannot be fetched is missing, and the message says how to bring it."""

    def download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(MissingFileError, match=rf"no route\).*hf download org/model --revision {COMMIT}.*give hf:DIR"):
        open_hugging_face(f"org/model@{COMMIT}", HOW)


def test_without_transformers_the_message_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named where transformers is missing."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SettingsError, match=r"pip install 'autocoarse\[hf\]'"):
        opened(folder)
