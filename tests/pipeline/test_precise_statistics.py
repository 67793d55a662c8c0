"""Batch norms get the statistics of whole images, however these are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook

from pipeline import precise_statistics
from pipeline.precise_statistics import take_statistics
from pipeline.samples import Sample
from pipeline.training_settings import TrainingRecipe, TrainSettings
from pipeline.two_scale import TwoScale
from storage.errors import SettingsError
from storage.layouts import LabelFile
from teacher.networks.registry import build_network

FABRIC = Fabric(accelerator="cpu", devices=1)


class Part:
    """One of several processes: it reads its share, and the sums of the others are added to its own."""

    def __init__(self, rank: int, others: Tensor | None = None) -> None:
        self.global_rank, self.world_size, self.device = rank, 2, torch.device("cpu")
        self.others = others
        self.own: Tensor | None = None

    def all_reduce(self, data: Tensor, reduce_op: str) -> Tensor:
        """Add up."""
        assert reduce_op == "sum"
        self.own = data
        return data if self.others is None else data + self.others


def recipe_for(**changes: Any) -> TrainingRecipe:
    """A light network of one scale, on small crops."""
    values: dict[str, Any] = {"encoder": "resnet10t", "crop": (96, 96), "batch": 4, "attention": "single"}
    return TrainingRecipe(**{**values, **changes})


def samples_of(root: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    """Images of noise about a mean of their own."""
    rng = np.random.default_rng(1)
    samples = []
    for number, (height, width) in enumerate(sizes):
        path = root / f"{number}.png"
        pixels = rng.integers(0, 40, (height, width, 3)) + rng.integers(0, 200, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        samples.append(Sample(str(number), path, LabelFile(path, "class"), "fine"))
    return samples


def network_of(recipe: TrainingRecipe) -> nn.Module:
    """A network with random weights, the same each time."""
    torch.manual_seed(0)
    return build_network(recipe.spec(3))


def take(network: nn.Module, recipe: TrainingRecipe, samples: list[Sample], fabric: Any = FABRIC) -> int:
    """Take statistics, and count the batches."""
    return len(list(take_statistics(network, recipe.spec(3), recipe, samples, fabric)))


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def statistics(network: nn.Module) -> list[Tensor]:
    """Running means and variances."""
    return [tensor for name, tensor in network.named_buffers() if name.endswith(("running_mean", "running_var"))]


def test_statistics_are_those_of_all_that_the_layer_is_given(tmp_path: Path) -> None:
    """Mean and variance of each batch norm are those of all values of all images together, not of single batches."""
    recipe = recipe_for()
    network = network_of(recipe)
    given: dict[int, list[Tensor]] = {}
    for place, norm in enumerate(norms_of(network)):
        norm.register_forward_pre_hook(lambda _, x, place=place: given.setdefault(place, []).append(x[0].double()))
    assert take(network, recipe, samples_of(tmp_path, [(64, 80)] * 16)) == 2
    assert not network.training
    for place, norm in enumerate(norms_of(network)):
        assert len(given[place]) == 2
        values = torch.cat(given[place])
        variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert torch.allclose(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        assert torch.allclose(norm.running_var.double(), variance, rtol=1e-3, atol=1e-6)


def test_a_network_of_two_scales_takes_them_at_both(tmp_path: Path) -> None:
    """With a hierarchical attention each batch is seen at 0.5 and at 1, and both count the same."""
    recipe = recipe_for(attention="hierarchical")
    network = network_of(recipe)
    first, means = norms_of(network)[0], []
    first.register_forward_pre_hook(lambda _, x: means.append(x[0].double().mean(dim=(0, 2, 3))))
    take(network, recipe, samples_of(tmp_path, [(64, 96)] * 4))
    assert len(means) == 2
    assert first.running_mean is not None
    assert torch.allclose(first.running_mean.double(), torch.stack(means).mean(dim=0), atol=1e-6)


def test_processes_share_out_the_batches(tmp_path: Path) -> None:
    """Two processes that each read half have the statistics of one that reads all, also where one has none to read."""
    recipe = recipe_for(crop=(32, 32))
    for count in (12, 3):
        samples = samples_of(tmp_path, [(64, 80)] * count)
        alone = network_of(recipe)
        batches = take(alone, recipe, samples)
        other, second = Part(1), network_of(recipe)
        read = take(second, recipe, samples, other)
        first = network_of(recipe)
        read += take(first, recipe, samples, Part(0, other.own))
        assert read == batches
        for one, both in zip(statistics(alone), statistics(first), strict=True):
            assert torch.allclose(one, both, rtol=1e-6, atol=1e-9)


def test_images_of_any_size_are_brought_together(tmp_path: Path) -> None:
    """Images of about one size are seen together, in that of the middle one; what is too large, in part."""
    recipe = recipe_for(crop=(32, 32), batch=2)
    network, seen = network_of(recipe), []
    network.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    take(
        network,
        recipe,
        samples_of(tmp_path, [(60, 80), (40, 50), (60, 80), (38, 50), (600, 800), (42, 50), (40, 50), (60, 80)]),
    )
    assert seen == [(4, 3, 40, 50), (4, 3, 55, 73)]
    assert 4 * 60 * 80 > 8 * 2 * 32 * 32 > 4 * 55 * 73
    assert all(torch.isfinite(tensor).all() for tensor in statistics(network))


def test_images_smaller_than_any_crop_are_made_as_large(tmp_path: Path) -> None:
    """Images that a network could be too deep for are enlarged, as crops have margins, and end no run at its end."""
    recipe = recipe_for(attention="hierarchical")
    network, seen = network_of(recipe), []
    network.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    take(network, recipe, samples_of(tmp_path, [(6, 8), (6, 90)]))
    assert sorted(seen) == [(2, 3, 16, 30), (2, 3, 32, 61)]


def test_an_encoder_of_some_sizes_only_sees_pieces_as_large_as_crops(tmp_path: Path) -> None:
    """Where an encoder does not take whole images, being no multiples of 32, their middles are seen, large as crops."""
    recipe = recipe_for(encoder="dla34", output_stride=32)
    network, seen = network_of(recipe), []
    network.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    before = [tensor.clone() for tensor in statistics(network)]
    assert take(network, recipe, samples_of(tmp_path, [(100, 120)] * 2)) == 1
    assert seen == [(2, 3, 100, 120), (2, 3, 96, 96)]
    assert not any(torch.equal(*both) for both in zip(before, statistics(network), strict=True))


def test_images_are_scaled_as_in_training(tmp_path: Path) -> None:
    """With a long edge the images have it."""
    recipe = recipe_for(long_edge=48)
    network, seen = network_of(recipe), []
    network.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    take(network, recipe, samples_of(tmp_path, [(64, 96)] * 2))
    assert seen == [(2, 3, 32, 48)]


def test_no_more_images_than_asked_for_and_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images as the setting says, drawn by the seed from all of them."""
    samples, read = samples_of(tmp_path, [(64, 64)] * 9), []
    whole = precise_statistics.read_image
    monkeypatch.setattr(precise_statistics, "read_image", lambda path: (read.append(path.name), whole(path))[1])
    for seed in (0, 0, 1):
        take(network_of(recipe_for()), recipe_for(precise_bn=4, seed=seed), samples)
    assert len(read) == 12
    assert read[:4] == read[4:8] != read[8:]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("upsample_bilinear2d_nhwc only supports output tensors with less than INT_MAX elements"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["device", "kernel", "host"],
)
def test_memory_that_does_not_suffice_makes_the_pieces_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """After an out-of-memory error all is taken again from smaller pieces, and nothing of the first try stays in it."""
    recipe, samples = recipe_for(crop=(32, 32)), samples_of(tmp_path, [(128, 128)] * 8)
    tried: list[int] = []
    inner = precise_statistics.TwoScale.forward

    def limited(module: Any, images: Tensor) -> Any:
        tried.append(images[:, 0].numel())
        if len(tried) > 1 and tried[-1] > 20_000:
            raise error
        return inner(module, images)

    monkeypatch.setattr(precise_statistics.TwoScale, "forward", limited)
    network = network_of(recipe)
    assert take(network, recipe, samples) == 1 + 4  # the first batch twice
    assert tried[0] == tried[1] > 20_000 > tried[2] == tried[5] >= 2 * 32 * 32
    monkeypatch.undo()
    monkeypatch.setattr(precise_statistics, "_ROOM", 4)
    small = network_of(recipe)
    take(small, recipe, samples)
    assert all(torch.equal(*both) for both in zip(statistics(network), statistics(small), strict=True))


def test_scores_of_many_classes_are_not_enlarged(tmp_path: Path) -> None:
    """What is kept of a batch at its full size is of one class, so that no number of classes takes memory."""
    recipe, kept = recipe_for(attention="hierarchical"), []
    hook = register_module_forward_hook(
        lambda module, _, made: kept.append(made.joint.shape) if isinstance(module, TwoScale) else None
    )
    with hook:
        take(network_of(recipe), recipe, samples_of(tmp_path, [(64, 96)] * 2))
    assert kept == [(2, 1, 64, 96)]


def test_memory_that_does_not_suffice_for_a_crop_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pieces as small as a crop do not fit either, it ends."""

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(precise_statistics.TwoScale, "forward", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        take(network_of(recipe_for()), recipe_for(), samples_of(tmp_path, [(64, 64)] * 2))


def test_one_image_is_too_few(tmp_path: Path) -> None:
    """From a single image nothing is taken: the running statistics stay."""
    network = network_of(recipe_for())
    before = [tensor.clone() for tensor in statistics(network)]
    assert take(network, recipe_for(), samples_of(tmp_path, [(64, 64)])) == 0
    assert all(torch.equal(*both) for both in zip(before, statistics(network), strict=True))
    with pytest.raises(SettingsError, match="precise_bn is 1"):
        TrainSettings.checked(
            fine_images=tmp_path, fine_labels=tmp_path, classes="camvid", out=tmp_path / "out", precise_bn=1
        )
