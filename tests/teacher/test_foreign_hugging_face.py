"""Tests for models of transformers as teachers: their predictions are those of the library's own pipeline."""

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from storage.errors import ImageError, SettingsError
from teacher.foreign.contract import ForeignModel, ModelSettings
from teacher.foreign.hf_processing import Processing
from teacher.foreign.hf_shapes import InputShape, Region, cut_map
from teacher.foreign.hugging_face import HuggingFaceModel, open_hugging_face
from teacher.precision import Precision
from tests.teacher import hugging_face_models as models
from tests.teacher.hugging_face_models import NAMES, Made, noise, run_pipeline, save_model

CPU = torch.device("cpu")
PER_PIXEL = (
    models.segformer, models.upernet_convnext, models.upernet_swin, models.upernet_dinov2, models.beit, models.data2vec,
    models.dpt, models.mobilevit,
)  # fmt: skip
MASKS = (models.mask2former, models.maskformer, models.padded_maskformer)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may open a connection."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Made]], Path]:
    """The directory of a model, made once."""
    folders: dict[str, Path] = {}

    def folder(make: Callable[[], Made]) -> Path:
        if make.__name__ not in folders:
            folders[make.__name__] = save_model(make, tmp_path_factory.mktemp(make.__name__))
        return folders[make.__name__]

    return folder


def predict(model: ForeignModel, images: Tensor, scale: float = 1.0) -> Tensor:
    """Logits, as a teacher asks for them."""
    with torch.inference_mode():
        return model(images, scale)


def opened(folder: Path, precision: Precision = "fp32", **settings: Any) -> ForeignModel:
    """The model, ready."""
    return open_hugging_face(str(folder), ModelSettings(CPU, precision, **settings))


def scores_of(output: Any) -> Tensor:
    """The library's scores of a mask classification, at the size of the masks."""
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", classes, output.masks_queries_logits.sigmoid())


@pytest.mark.parametrize("make", PER_PIXEL)
def test_logits_are_those_of_the_librarys_pipeline(make: Callable[[], Made], saved: Any) -> None:
    """For images of odd sizes, upright and not, logits equal those of the processor and the model of the library."""
    folder = saved(make)
    model = opened(folder)
    for images in (noise(77, 101), noise(103, 71, batch=1)):
        expected = run_pipeline(folder, images)[0].logits
        assert torch.equal(predict(model, images), expected)
        assert expected.std() > 0


@pytest.mark.parametrize("make", MASKS)
def test_classified_masks_become_the_logarithm_of_the_librarys_scores(make: Callable[[], Made], saved: Any) -> None:
    """The softmax of the logits is each score's share, and what lies over padding is cut off."""
    images = noise(77, 101)
    logits = predict(opened(saved(make)), images)
    scores = scores_of(run_pipeline(saved(make), images)[0])[..., : logits.shape[2], : logits.shape[3]].double()
    assert logits.shape == (2, len(NAMES), 16, 24)  # 64x96 at stride 4, of which 101x77 is the whole
    shares = (scores / scores.sum(1, keepdim=True)).float()
    assert torch.allclose(logits.softmax(1), shares, atol=1e-5)


def test_the_best_label_is_that_of_the_librarys_semantic_result(saved: Any) -> None:
    """MaskFormer's labels at the size of its masks are those of post_process_semantic_segmentation."""
    images = noise(77, 101)
    output, processor, _ = run_pipeline(saved(models.maskformer), images)
    expected = torch.stack(processor.post_process_semantic_segmentation(output))
    assert torch.equal(predict(opened(saved(models.maskformer)), images).argmax(1), expected)


def test_mask2formers_labels_are_the_librarys_but_for_its_enlarging(saved: Any) -> None:
    """The library enlarges masks to 384x384 first; where that changes nothing, its labels are ours."""
    images = noise(77, 101)
    output, processor, _ = run_pipeline(saved(models.mask2former), images)
    repeated = output.masks_queries_logits.repeat_interleave(24, 2).repeat_interleave(16, 3)
    assert repeated.shape[2:] == (384, 384)
    output.masks_queries_logits = repeated
    expected = torch.stack(processor.post_process_semantic_segmentation(output))[:, ::24, ::16]
    assert torch.equal(predict(opened(saved(models.mask2former)), images).argmax(1), expected)


def test_oneformer_is_told_its_task_as_the_library_tells_it(saved: Any) -> None:
    """OneFormer's labels are those of the library's whole processor, with the task of semantic segmentation."""
    folder = saved(models.oneformer)
    models.write_tokenizer(folder)
    images = noise(77, 101)
    network, processor = models.pipeline_of(folder)
    tokenizer = models.transformers.CLIPTokenizer.from_pretrained(folder)
    whole = models.transformers.OneFormerProcessor(processor, tokenizer, max_seq_length=9, task_seq_length=9)
    given = whole(
        images=list((images * 255).round().to(torch.uint8)), task_inputs=["semantic"] * 2, return_tensors="pt"
    )
    assert (given["task_inputs"] > 0).sum() > 9
    with torch.inference_mode():
        output = network(**given)
    logits = predict(opened(folder), images)
    assert torch.equal(logits.argmax(1), torch.stack(processor.post_process_semantic_segmentation(output)))
    scores = scores_of(output)
    assert torch.allclose(logits.softmax(1), scores / scores.sum(1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("make", [models.eomt, models.eomt_dinov3])
@pytest.mark.parametrize("size", [(77, 101), (150, 60)])
def test_split_images_are_joined_as_the_library_joins_them(
    make: Callable[[], Made], size: tuple[int, int], saved: Any
) -> None:
    """EoMT's labels are those of its own post-processing, at the size that the processor brings images to."""
    images = noise(*size)
    logits = predict(opened(saved(make)), images)
    output, processor, given = run_pipeline(saved(make), images)
    assert len(given["pixel_values"]) > len(images)
    expected = torch.stack(processor.post_process_semantic_segmentation(output, target_sizes=[logits.shape[2:]] * 2))
    assert min(logits.shape[2:]) == 64
    assert torch.equal(logits.argmax(1), expected)


def test_padding_that_ends_within_a_cell_is_cut_off(saved: Any) -> None:
    """Of a processor that pads 49 rows to 64, at stride 4, the 12.25 rows over the image are left, as 13."""
    assert predict(opened(saved(models.padded_eomt)), noise(77, 101)).shape == (2, len(NAMES), 13, 16)


@given(data=st.data(), cells=st.integers(2, 9), stride=st.integers(1, 8))
def test_a_cut_map_lies_over_the_image_alone(data: st.DataObject, cells: int, stride: int) -> None:
    """What is left of a map of positions says where each new cell's centre lies in the image."""
    of = cells * stride
    top = data.draw(st.integers(0, of - 1))
    height = data.draw(st.integers(1, of - top))
    positions = ((torch.arange(cells) + 0.5) * stride - top).reshape(1, 1, -1, 1).expand(1, 1, -1, 3)
    cut = cut_map(positions, Region(top, 0, height, 3, of, 3))
    count = cut.shape[2]
    assert count == -(-height * cells // of)
    centres = ((torch.arange(count) + 0.5) * height / count).reshape(1, 1, -1, 1)
    inner = (centres >= 0.5 * stride) & (centres <= height - 0.5 * stride)
    assert torch.allclose(torch.where(inner, cut, centres), centres.expand(1, 1, -1, 3), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "half", "double"),
    [
        (models.segformer, (8, 16), (32, 48)),  # 32x48 becomes 32x64, a multiple of 32
        (models.upernet_convnext, (32, 42), (128, 167)),
        (models.upernet_dinov2, (42, 56), (140, 196)),
        (models.beit, (8, 8), (32, 32)),
        (models.mask2former, (8, 16), (32, 48)),
        (models.padded_maskformer, (8, 16), (32, 48)),
    ],
)
def test_the_processors_size_is_multiplied_by_the_scale(
    make: Callable[[], Made], half: tuple[int, int], double: tuple[int, int], saved: Any
) -> None:
    """An image at half or double scale is brought to half or double the processor's size."""
    model = opened(saved(make))
    images = noise(77, 101)
    for scale, size in ((0.5, half), (2.0, double)):
        at_scale = functional.interpolate(images, scale_factor=scale, mode="bilinear").clamp(0, 1)
        assert predict(model, at_scale, scale).shape == (2, len(NAMES), *size)


@pytest.mark.parametrize("make", [models.eomt, models.padded_eomt, models.data2vec])
def test_a_network_of_one_size_refuses_other_scales(make: Callable[[], Made], saved: Any) -> None:
    """A network that cannot take another size says so, rather than arranging patches wrongly."""
    with pytest.raises(ImageError, match=r"takes images of 64x64 only.*scale 1"):
        predict(opened(saved(make)), noise(154, 202), 2.0)


def test_a_network_of_square_images_refuses_others(tmp_path: Path) -> None:
    """DPT takes 2x8 patches for 4x4; that is refused."""

    def make() -> Made:
        model, processor = models.dpt()
        processor.size = {"height": 32, "width": 128}
        return model, processor

    with pytest.raises(ImageError, match="square images only"):
        predict(opened(save_model(make, tmp_path)), noise(77, 101))


@given(height=st.integers(1, 4000), width=st.integers(1, 4000), stride=st.integers(1, 40), up=st.booleans())
def test_a_map_of_the_same_proportions_covers_the_image(height: int, width: int, stride: int, up: bool) -> None:
    """Maps at any stride, rounded up or down, are taken; a square one for a long image is not."""
    cells = [max(1, edge // stride + up) for edge in (height, width)]
    assert InputShape.covers(*cells, height, width)
    assert not InputShape.covers(16, 16, 32, 128)


def test_a_map_that_was_arranged_on_another_grid_is_refused(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that takes 2x8 patches for 4x4 without a word is found out by its map."""
    model = opened(saved(models.segformer))
    assert isinstance(model, HuggingFaceModel)
    network = model._network.module
    monkeypatch.setattr(network, "forward", lambda pixel_values: SimpleNamespace(logits=pixel_values[:, :, :32, :32]))
    monkeypatch.setattr(model._processing._processor, "size", {"height": 64, "width": 192})
    with pytest.raises(ImageError, match="gives a map of 32x32 for an image of 192x64"):
        predict(model, noise(77, 101))


def test_native_size_leaves_images_as_they_are(saved: Any) -> None:
    """Without resizing, the network sees the image with its right and lower edge padded, and the map is cut."""
    folder = saved(models.segformer)
    images = noise(96, 64)
    network, processor = models.pipeline_of(folder)
    given = processor(images=list((images * 255).round().to(torch.uint8)), return_tensors="pt", do_resize=False)
    with torch.inference_mode():
        assert torch.equal(predict(opened(folder, native=True), images), network(**given).logits)
        shorter = network(functional.pad(given["pixel_values"][:, :, :84], (0, 0, 0, 12))).logits[:, :, :21]
    assert torch.equal(predict(opened(folder, native=True), images[:, :, :84]), shorter)


def test_native_size_takes_smaller_images_for_a_network_of_one_size(saved: Any) -> None:
    """An image smaller than the network's only size is padded to it; a larger one is refused."""
    model = opened(saved(models.padded_eomt), native=True)
    assert predict(model, noise(64, 40)).shape == (2, len(NAMES), 16, 10)
    with pytest.raises(ImageError, match="would get 80x64"):
        predict(model, noise(64, 80))


def test_a_centre_crop_is_left_out(saved: Any) -> None:
    """A map covers the whole image where the library's own processor would cut out its centre."""
    folder = saved(models.mobilenet)
    images = noise(130, 260)
    network, processor = models.pipeline_of(folder)
    given = processor(images=list((images * 255).round().to(torch.uint8)), return_tensors="pt", do_center_crop=False)
    assert given["pixel_values"].shape[-2:] == (65, 130)
    with torch.inference_mode():
        assert torch.equal(predict(opened(folder), images), network(**given).logits)


def test_mean_and_std_can_be_given(saved: Any) -> None:
    """What is given takes the place of the processor's, and a processor that does not normalise refuses it."""
    folder = saved(models.segformer)
    images = noise(64, 96)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    network, processor = models.pipeline_of(folder)
    given = processor(
        images=list((images * 255).round().to(torch.uint8)), return_tensors="pt", image_mean=mean, image_std=std
    )
    model = opened(folder, mean=mean, std=std)
    with torch.inference_mode():
        assert torch.equal(predict(model, images), network(**given).logits)
    assert model.facts()["mean"] == "0.1 0.2 0.3"
    with pytest.raises(SettingsError, match="does not normalise"):
        opened(saved(models.mobilevit), mean=mean)


def test_labels_are_those_of_the_outputs_in_order(saved: Any) -> None:
    """Names come from id2label without a shift, also where the processor reduces labels; others can be given."""
    assert opened(saved(models.segformer)).labels == NAMES
    assert opened(saved(models.segformer), labels=tuple("abcde")).labels == tuple("abcde")
    with pytest.raises(SettingsError, match="5 outputs, got 2 names"):
        opened(saved(models.segformer), labels=("a", "b"))


def test_place_holders_are_no_labels(tmp_path: Path) -> None:
    """A model whose labels nobody named has none."""

    def make() -> Made:
        model, processor = models.segformer()
        model.config.id2label = {number: f"LABEL_{number}" for number in range(5)}
        return model, processor

    assert opened(save_model(make, tmp_path)).labels is None


@pytest.mark.parametrize("make", [models.segformer, models.eomt_dinov3])
def test_half_precision_is_the_librarys(make: Callable[[], Made], saved: Any) -> None:
    """In bf16 the network is the library's in bf16, logits are float32, and weights take half the bytes."""
    images = noise(64, 96 if make is models.segformer else 64)
    whole, half = opened(saved(make)), opened(saved(make), "bf16")
    logits = predict(half, images)
    network, processor = models.pipeline_of(saved(make))
    network = type(network).from_pretrained(saved(make), dtype=torch.bfloat16).eval()  # type: ignore[attr-defined]
    given = processor(images=list((images * 255).round().to(torch.uint8)), return_tensors="pt")
    with torch.inference_mode():
        output = network(given["pixel_values"].bfloat16())
    if make is models.segformer:
        assert torch.equal(logits, output.logits.float())
    else:
        enlarged = functional.interpolate(output.masks_queries_logits.float(), size=(64, 64), mode="bilinear")
        output.class_queries_logits, output.masks_queries_logits = output.class_queries_logits.float(), enlarged
        scores = scores_of(output)
        assert torch.allclose(logits.softmax(1), scores / scores.sum(1, keepdim=True), atol=1e-5)
    assert logits.dtype == torch.float32
    assert half.weight_bytes < 0.52 * whole.weight_bytes


def test_the_digest_is_of_all_that_decides(saved: Any, tmp_path: Path) -> None:
    """Copies have the same digest; other weights, settings of the processor or of ours have another."""
    folder = saved(models.segformer)
    digest = opened(folder).digest
    assert len(digest) == 64
    (tmp_path / "copy").symlink_to(folder)
    assert opened(tmp_path / "copy").digest == digest

    def other_processor() -> Made:
        model, processor = models.segformer()
        processor.resample = 3
        return model, processor

    others = [
        opened(folder, native=True),
        opened(folder, mean=(0.5, 0.5, 0.5)),
        opened(save_model(other_processor, tmp_path / "processor")),
    ]
    assert len({digest, *(model.digest for model in others)}) == 4


def test_facts_say_what_it_is(saved: Any, tmp_path: Path) -> None:
    """Architecture, source, sizes, normalisation and licence are there; the licence is shortened and printable."""
    folder = save_model(models.segformer, tmp_path)
    (folder / "README.md").write_text(f"---\ntags: [a]\nlicense: apache\x1b[31m-2.0{'x' * 999}\n---\nlicense: no\n")
    facts = opened(folder).facts()
    assert facts["architecture"] == "SegformerForSemanticSegmentation"
    assert facts["input size"] == "height 64, width 96"
    assert facts["std"] == "0.229 0.224 0.225"
    assert facts["licence"].startswith("apache?[31m-2.0xxx")
    assert len(facts["licence"]) == 60
    assert opened(saved(models.mobilevit)).facts()["mean"] == "not normalised"
    assert opened(saved(models.segformer)).facts()["licence"] == "not said"


def test_a_processor_of_arrays_serves_too() -> None:
    """Where the library has a processor of arrays only, it is given arrays, and gives the same as it does alone."""
    images = noise(77, 101)
    processor = models.transformers.SegformerImageProcessorPil(size={"height": 64, "width": 96})
    prepared = Processing(processor, InputShape(32), ModelSettings(CPU), "it").prepare(images, 1.0)
    given = processor(images=[(image * 255).round().to(torch.uint8).numpy() for image in images], return_tensors="pt")
    assert torch.equal(prepared.inputs["pixel_values"], given["pixel_values"])
    assert prepared.region == Region(0, 0, 64, 96, 64, 96)


def test_nothing_is_printed(saved: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither opening nor predicting writes to the terminal, whatever transformers is told to say."""
    models.transformers.utils.logging.enable_progress_bar()
    predict(opened(saved(models.mask2former)), noise(77, 101))
    assert models.transformers.utils.logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 40 bytes."),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_what_the_device_refuses_is_no_fault_of_the_image(
    error: RuntimeError, saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory runs out in the network or in its processor, or the device fails, that very error is told."""
    model = opened(saved(models.segformer))
    images = noise(64, 96)

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    for place, name in ((torch.nn.Conv2d, "forward"), (Processing, "_process")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, refuse)
            with pytest.raises(RuntimeError) as caught:
                predict(model, images)
            assert caught.value is error
