import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from storage.errors import CheckpointError, SettingsError
from teacher.fusion import hierarchical_logits
from teacher.networks.encoders import make_encoder
from teacher.networks.hrnet import HRNet
from teacher.networks.ocr import gather_regions
from teacher.networks.registry import NetworkSpec, build_network, default_spec, network_names

FillNetwork = Callable[[NetworkSpec], nn.Module]
REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
ENCODERS = ["tf_efficientnet_lite0", "resnet10t", "mobilenetv3_small_050"]


def test_trunk_ends_at_stride_four(images: Tensor) -> None:
    """The trunk gives all branches side by side at a quarter of the image's size, rounded up."""
    features = HRNet(width=8, modules=(1, 1, 1), blocks=1)(images)
    assert features.shape == (2, 120, 12, 16)


def test_full_network_has_the_known_size() -> None:
    """HRNet-W48 with OCR and attention for 19 classes has the published network's number of weights."""
    with torch.device("meta"):
        network = build_network(default_spec("hrnet-ocr", 19))
    assert sum(p.numel() for p in network.parameters()) == 72_143_430
    assert len(network.state_dict()) == 1903


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference's data is not at hand")
def test_entries_are_the_public_ones() -> None:
    """Every name and shape of the public checkpoint is the network's, in the same order."""
    public = json.loads((REFERENCE / "nvidia_hrnet_ocr_mscale.keys.json").read_text())
    with torch.device("meta"):
        own = build_network(default_spec("hrnet-ocr", 19)).state_dict()
    expected = [(e["name"].removeprefix(public["prefix"]), tuple(e["shape"])) for e in public["entries"]]
    assert [(name, tuple(entry.shape)) for name, entry in own.items()] == expected


def test_regions_are_weighted_means() -> None:
    """A region's features are those of the only pixel its class is sure of."""
    features = torch.randn(1, 5, 4, 3)
    auxiliary = torch.zeros(1, 2, 4, 3)
    auxiliary[0, 0, 2, 1] = 200
    regions = gather_regions(features, auxiliary)
    assert regions.shape == (1, 5, 2, 1)
    assert torch.allclose(regions[0, :, 0, 0], features[0, :, 2, 1])
    assert torch.allclose(regions[0, :, 1, 0], features[0].mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [(64, 96), (45, 61), (33, 130), (16, 17)])
def test_any_encoder_takes_any_size(fill_network: FillNetwork, encoder: str, size: tuple[int, int]) -> None:
    """DeepLabV3+ on an encoder of timm predicts at a quarter of an image of any size, and fuses at that very size."""
    network = fill_network(default_spec("deeplabv3plus", 5, encoder))
    image = torch.randn(1, 3, *size)
    with torch.inference_mode():
        prediction = network(image)
        joint = hierarchical_logits(network, image, [0.5, 1.0])
    quarter = (1, 5, math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    assert prediction.logits.shape == quarter
    assert prediction.attention.shape == (1, 1, *quarter[2:])
    assert prediction.auxiliary is None
    assert 0 <= prediction.attention.min() <= prediction.attention.max() <= 1
    assert joint.shape == (1, 5, *size)
    assert joint.isfinite().all()


def test_swin_takes_any_size_and_computes_at_its_own_what_timm_does() -> None:
    """A Swin encoder, which timm makes for one size, gives the same features there, and has them at any other size."""
    encoder = make_encoder("swin_tiny_patch4_window7_224", 32).eval()
    published = get_encoder("tu-swin_tiny_patch4_window7_224", weights=None).eval()
    published.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one, other in zip(encoder(image), published(image), strict=True):
            assert torch.equal(one, other)
        features = encoder(image[..., :45, :130])
    assert [tuple(f.shape[-2:]) for f in features[2:]] == [(12, 33), (6, 17), (3, 9), (2, 5)]
    assert encoder.out_channels == published.out_channels


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_stride_is_the_encoders(output_stride: int) -> None:
    """The encoder's coarsest features have the stride that was asked for."""
    network = build_network(NetworkSpec("deeplabv3plus", 2, "resnet10t", output_stride=output_stride)).eval()
    with torch.inference_mode():
        coarsest = network.encoder(torch.zeros(1, 3, 64, 96))[-1]
    assert coarsest.shape[-2:] == (64 // output_stride, 96 // output_stride)


def test_normalisation_is_the_encoders() -> None:
    """The normalisation is the one the encoder's published weights were trained with."""
    assert default_spec("deeplabv3plus", 2, "tf_efficientnet_lite0").mean == (0.5, 0.5, 0.5)
    assert default_spec("deeplabv3plus", 2, "resnet10t").mean == (0.485, 0.456, 0.406)
    assert default_spec("hrnet-ocr", 2).std == (0.229, 0.224, 0.225)


def test_unknown_encoder_gets_advice() -> None:
    """A misspelt encoder is refused with the names it resembles."""
    with pytest.raises(SettingsError, match="tf_efficientnet_lite0"):
        default_spec("deeplabv3plus", 2, "tf_eficientnet_lite0")


@pytest.mark.parametrize("encoder", ["hf-hub:someone/network", "tf_efficientnet_lite0.nobodys_tag", "", None])
def test_encoder_must_be_timms_own(encoder: str | None) -> None:
    """Nothing but a registered name of timm is an encoder, so none is looked up on the network."""
    with pytest.raises(SettingsError, match="encoder"):
        default_spec("deeplabv3plus", 2, encoder)


def test_encoder_without_a_pyramid_is_refused() -> None:
    """An encoder that has features at one stride only is refused with what to use instead."""
    spec = default_spec("deeplabv3plus", 2, "vit_tiny_patch16_224")
    with pytest.raises(SettingsError, match="try an output_stride of 32, or a convolutional encoder"):
        build_network(spec)


def test_encoder_of_too_few_strides_is_refused() -> None:
    """An encoder that has features at three strides only is refused, whatever error that is to whoever builds it."""
    with pytest.raises(SettingsError, match="try a convolutional encoder"):
        build_network(default_spec("deeplabv3plus", 2, "nest_tiny", output_stride=32))


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 2, 1), blocks=2, ocr_channels=16),
        default_spec("deeplabv3plus", 255, "tf_efficientnet_lite0"),
    ],
)
def test_specification_survives_json(spec: NetworkSpec) -> None:
    """A specification comes back from plain values as it was."""
    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict())), "here") == spec


@pytest.mark.parametrize(
    "change",
    [
        {"network": "unet"},
        {"num_classes": 0},
        {"num_classes": 256},
        {"num_classes": "3"},
        {"num_classes": True},
        {"encoder": "resnet10t"},
        {"width": 10**9},
        {"modules": [1, 1]},
        {"modules": 3},
        {"ocr_channels": 15},
        {"output_stride": 4},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [0.0, math.nan, 1.0]},
        {"mean": "abc"},
        {"mean": None},
        {"surprise": 1},
    ],
)
def test_untrusted_specification_is_checked(narrow_spec: NetworkSpec, change: dict[str, object]) -> None:
    """A specification with a value that no network can have is refused, naming the file."""
    with pytest.raises(CheckpointError, match="some file"):
        NetworkSpec.from_dict(narrow_spec.to_dict() | change, "some file")


@pytest.mark.parametrize("content", [None, [], "hrnet-ocr", {}, {"network": "hrnet-ocr"}])
def test_what_is_no_specification_is_refused(content: object) -> None:
    """Anything but a table with network and number of classes is no specification."""
    with pytest.raises(CheckpointError, match="specification"):
        NetworkSpec.from_dict(content, "some file")


def test_networks_are_listed() -> None:
    """The names are those that a specification takes."""
    assert network_names() == ("deeplabv3plus", "deeperlab", "hrnet-ocr")
