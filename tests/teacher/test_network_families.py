"""Every family of networks: small members forward, at several scales and in a step; large ones counted."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import EfficientNet_B4_Weights, ResNet50_Weights

from storage.errors import SettingsError
from teacher.folding import fold_batch_norms
from teacher.fusion import hierarchical_logits, single_scale_forward, training_forward
from teacher.networks import encoders
from teacher.networks.deeper import DeeperDecoder
from teacher.networks.prediction import Fusion
from teacher.networks.registry import NetworkSpec, build_network, default_spec
from teacher.networks.wide_resnet import WideResNet

FillNetwork = Callable[[NetworkSpec], nn.Module]
SMALL = {
    "deeplabv3plus, ResNet, 8": ("deeplabv3plus", "resnet10t", 8),
    "deeplabv3plus, ResNet, 16": ("deeplabv3plus", "resnet10t", 16),
    "deeplabv3plus, EfficientNet": ("deeplabv3plus", "tf_efficientnet_lite0", 16),
    "deeplabv3plus, Xception": ("deeplabv3plus", "xception41", 16),
    "deeplabv3plus, wide ResNet": ("deeplabv3plus", "wide_resnet38", 8),
    "deeperlab, ResNet, 8": ("deeperlab", "resnet10t", 8),
    "deeperlab, wide ResNet, 8": ("deeperlab", "wide_resnet38", 8),
}
MEGA, GIGA = 1e6, 1e9


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Wide ResNet-38 with a sixteenth of its width, but where it is counted."""
    if "published" not in request.node.name:
        monkeypatch.setitem(encoders.OWN_ENCODERS, "wide_resnet38", functools.partial(WideResNet, width=4))


@pytest.mark.parametrize("name", SMALL)
def test_each_family_predicts_at_any_size(fill_network: FillNetwork, name: str) -> None:
    """Logits and attention come at a quarter of an odd size, fuse at that very size, and batch norms can be folded."""
    network, encoder, stride = SMALL[name]
    filled = fill_network(default_spec(network, 5, encoder, output_stride=stride))
    image = torch.randn(1, 3, 45, 61)
    with torch.inference_mode():
        prediction = filled(image)
        joint = hierarchical_logits(filled, image, [0.5, 1.0, 2.0])
        folded = fold_batch_norms(filled)(image)
    quarter = (1, 5, math.ceil(45 / 4), math.ceil(61 / 4))
    assert prediction.logits.shape == quarter
    assert prediction.attention.shape == (1, 1, *quarter[2:])
    assert prediction.auxiliary is None
    assert joint.shape == (1, 5, 45, 61)
    assert joint.isfinite().all()
    assert (folded.logits - prediction.logits).abs().max() < 1e-3 * prediction.logits.abs().max()


@pytest.mark.parametrize("attention", ["hierarchical", "single"])
@pytest.mark.parametrize("name", ["deeplabv3plus, wide ResNet", "deeperlab, ResNet, 8"])
def test_each_family_learns_with_all_its_parameters(name: str, attention: str) -> None:
    """A training forward gives every parameter a gradient, those of the attention where there is one."""
    network, encoder, stride = SMALL[name]
    built = build_network(default_spec(network, 3, encoder, output_stride=stride, attention=attention))
    images = torch.randn(2, 3, 64, 64)
    forward = training_forward if attention == "hierarchical" else single_scale_forward
    forward(built, images).joint.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    assert any(n.startswith("scale_attn.") for n, _ in built.named_parameters()) == (attention == "hierarchical")


def test_a_network_without_attention_needs_another_fusion(fill_network: FillNetwork) -> None:
    """Several scales of a network that has no attention cannot be fused by it; their mean and one scale can."""
    filled = fill_network(default_spec("deeplabv3plus", 3, "resnet10t", attention="average"))
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        with pytest.raises(SettingsError, match="choose the fusion average"):
            hierarchical_logits(filled, image, [0.5, 1.0])
        assert hierarchical_logits(filled, image, [0.5, 1.0], "average").shape == (1, 3, 32, 48)
        alone = hierarchical_logits(filled, image, [1.0])
        assert torch.equal(hierarchical_logits(filled, image, [0.5, 1.0], "single"), alone)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_wide_resnet_keeps_its_size_from_the_output_stride_on(stride: int) -> None:
    """Its coarsest features have the stride that was asked for, and see as far as at stride 32: dilation makes up."""
    trunk = WideResNet(stride, width=2).eval()
    with torch.inference_mode():
        features = trunk(torch.zeros(1, 3, 64, 96))
    assert [f.shape[1] for f in features] == trunk.out_channels
    assert features[2].shape[-2:] == (16, 24)
    assert features[-1].shape[-2:] == (64 // stride, 96 // stride)
    dilations = {m.dilation[0] for m in trunk.mod7.modules() if isinstance(m, nn.Conv2d)}
    assert max(dilations) == 32 // stride


def test_deeper_decoder_moves_detail_into_channels_and_back() -> None:
    """A change of the features at stride 4 shows at that very place, and no further than the kernels reach."""
    decoder = DeeperDecoder([3, 4, 6, 8, 10, 12], 16, (6, 12, 18)).eval()
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    features = [torch.randn(1, channels, 200 // 2**i, 200 // 2**i) for i, channels in enumerate((3, 4, 6, 8, 10))]
    features.append(torch.randn(1, 12, 13, 13))
    changed = [f.clone() for f in features]
    changed[2][:, :, 24, 24] += 1
    with torch.inference_mode():
        difference = (decoder(changed) - decoder(features)).abs().amax(dim=(0, 1))
    rows, columns = difference.nonzero(as_tuple=True)
    assert difference.shape == (50, 50)
    assert difference[24, 24] > 0
    assert rows.min() >= 0
    # two kernels of 7 reach 6 blocks of 4 in each direction
    assert max(rows.max(), columns.max()) < 24 + 7 * 4


def _counted(network: nn.Module, size: tuple[int, int], device: str = "cpu") -> tuple[float, float]:
    """Parameters in millions; multiplications with their additions, in thousand millions, of an image of a size."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, *size, device=device))
    return sum(p.numel() for p in network.parameters()) / MEGA, counter.get_total_flops() / 2 / GIGA


def _head(channels: int, classes: int, size: tuple[int, int]) -> tuple[float, float]:
    """The same of HRNetV2's own head at stride 4: a 1x1 convolution with batch norm, and the classifier."""
    convolutions = channels * channels + channels * classes
    norms = 3 * channels + classes
    return (convolutions + norms) / MEGA, convolutions * size[0] * size[1] / 16 / GIGA


CITYSCAPES = (1024, 2048)


def test_hrnet_has_the_published_figures() -> None:
    """HRNetV2-W48 has 65.9 M parameters and 696.2 Gi operations, and with OCR 70.3 M and 1206.3 Gi, at 1024x2048.

    Source: arXiv:1908.07919, table 3. Its G is 2**30: so it agrees within 0.2 %, and with table 3 of arXiv:2105.15203,
    which has 1296.8 G for HRNet-W48 with OCR.
    """
    with FakeTensorMode():
        network = build_network(default_spec("hrnet-ocr", 19, attention="single")).eval()
        trunk, whole = _counted(network.backbone, CITYSCAPES), _counted(network, CITYSCAPES)
    plain = [a + b for a, b in zip(trunk, _head(720, 19, CITYSCAPES), strict=True)]
    assert plain[0] == pytest.approx(65.9, rel=0.02)
    assert plain[1] * GIGA / 2**30 == pytest.approx(696.2, rel=0.02)
    assert whole[0] == pytest.approx(70.3, rel=0.02)
    assert whole[1] * GIGA / 2**30 == pytest.approx(1206.3, rel=0.02)
    assert whole[1] == pytest.approx(1296.8, rel=0.02)


def test_xception_71_has_the_published_size() -> None:
    """DeepLabV3+ on Xception-71 at output stride 8 has 43.5 M parameters.

    Source: arXiv:1908.07919, table 3. Without the attention head, which is not DeepLab's.
    """
    with torch.device("meta"):
        network = build_network(default_spec("deeplabv3plus", 19, "xception71", output_stride=8, attention="single"))
    assert sum(p.numel() for p in network.parameters()) / MEGA == pytest.approx(43.5, rel=0.02)


@pytest.mark.parametrize(
    ("encoder", "size", "weights", "head"),
    [
        ("resnet50", 224, ResNet50_Weights.IMAGENET1K_V1, 0),
        ("tf_efficientnet_b4", 380, EfficientNet_B4_Weights.IMAGENET1K_V1, 448 * 1792),
    ],
)
def test_encoders_have_the_published_figures(encoder: str, size: int, weights: object, head: int) -> None:
    """With the classifier of ImageNet, parameters and operations are those that torchvision publishes of the network.

    The head's own convolution, before the pooling, is `head` multiplications a pixel.
    """
    published = weights.meta
    with torch.device("meta"):
        trunk = encoders.make_encoder(encoder, 32).eval()
        parameters, operations = _counted(trunk, (size, size), "meta")
        classifier = timm.create_model(encoder)
        own = {name.replace(".", "_") for name, _ in trunk.model.named_parameters()}
        beyond = sum(p.numel() for name, p in classifier.named_parameters() if name.replace(".", "_") not in own)
    operations += head * math.ceil(size / 32) ** 2 / GIGA
    assert parameters + beyond / MEGA == pytest.approx(published["num_params"] / MEGA, rel=0.02)
    assert operations == pytest.approx(published["_ops"], rel=0.02)


def test_wide_resnet_38_has_the_published_size() -> None:
    """Its entries take 402 MiB, as the ImageNet weights of model A1 without a classifier do.

    Source: the file ilsvrc-cls_rna-a1_cls1000_ep-0001.pth of github.com/visinf/1-stage-wseg, which its README lists
    with its size. No publication with its number of parameters or operations was at hand.
    """
    with torch.device("meta"):
        trunk = WideResNet()
    assert sum(value.nbytes for value in trunk.state_dict().values()) / 2**20 == pytest.approx(402, rel=0.02)


def test_trunks_of_hrnet_are_chosen_by_name() -> None:
    """The width of HRNet-OCR's trunk is chosen as an encoder is, and is not part of the specification's encoder."""
    assert default_spec("hrnet-ocr", 2, "hrnet_w18") == NetworkSpec("hrnet-ocr", 2, width=18)
    assert default_spec("hrnet-ocr", 2, "hrnet_w48") == default_spec("hrnet-ocr", 2)
    with pytest.raises(SettingsError, match="one of hrnet_w18, hrnet_w32, hrnet_w48"):
        default_spec("hrnet-ocr", 2, "resnet50")


@pytest.mark.parametrize("attention", ["single", "explicit"])
def test_a_specification_of_before_keeps_its_form(narrow_spec: NetworkSpec, attention: Fusion) -> None:
    """The default attention leaves no trace, so that older checkpoints keep their digest; another one is told."""
    assert not {"attention", "attention_scales"} & narrow_spec.to_dict().keys()
    spec = default_spec("deeplabv3plus", 2, "resnet10t", attention=attention)
    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict())), "here") == spec


def _explicit(scales: tuple[float, ...] = (0.5, 1.0, 2.0)) -> NetworkSpec:
    return default_spec("deeplabv3plus", 3, "resnet10t", attention="explicit", attention_scales=scales)


def test_explicit_attention_weighs_the_logits_of_its_scales(fill_network: FillNetwork) -> None:
    """The logits are the sum over the scales of weight times logits, and the weights sum to 1 at every pixel."""
    filled = fill_network(_explicit())
    image = torch.randn(1, 3, 45, 61)
    weights: list[Tensor] = []
    filled.scale_attn.register_forward_hook(lambda _module, _inputs, output: weights.append(output))
    with torch.inference_mode():
        prediction = filled(image)
        expected = torch.zeros(1, 3, 12, 16)
        for number, scale in enumerate((0.5, 1.0, 2.0)):
            size = (int(45 * scale), int(61 * scale))
            scaled = nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)
            logits = filled.classifier(filled.decoder(filled.encoder(scaled)))
            expected += weights[0][:, number : number + 1] * _average([logits], (12, 16))
    assert weights[0].shape == (1, 3, 12, 16)
    assert torch.allclose(weights[0].sum(dim=1), torch.ones(1, 12, 16))
    assert torch.equal(prediction.attention, weights[0])
    assert torch.allclose(prediction.logits, expected, atol=1e-4 * expected.abs().max())
    with torch.inference_mode():  # at labelling it goes through its scales by itself
        joint = hierarchical_logits(filled, image, [0.25, 1.0], "explicit")
    assert torch.allclose(joint, _average([prediction.logits], (45, 61)), atol=1e-4 * expected.abs().max())


def test_explicit_attention_tells_what_each_scale_counts_from_the_smallest_on(fill_network: FillNetwork) -> None:
    """Whatever the order of its scales is, the weights are given in theirs; who does not ask gets none."""
    filled, weights = fill_network(_explicit((1.0, 2.0, 0.5))), []
    filled.scale_attn.register_forward_hook(lambda _module, _inputs, output: weights.append(output))
    with torch.inference_mode():
        assert torch.equal(filled(torch.randn(1, 3, 45, 61)).attention, weights[0][:, [2, 0, 1]])
        assert filled(torch.randn(1, 3, 45, 61), attend=False).attention is None


def test_explicit_attention_learns_with_all_its_parameters() -> None:
    """Its head's parameters have gradients, and as many weights as the scales that it is over."""
    built = build_network(_explicit((0.5, 1.0)))
    single_scale_forward(built, torch.randn(2, 3, 64, 64)).joint.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    assert built.scale_attn.conv1.weight.shape[0] == 2


def test_operations_of_training_are_the_papers_ratios() -> None:
    """Against one scale, hierarchical training takes 1.25 and explicit at 0.5, 1, 2 takes 5.25 times the operations.

    Source: arXiv:2005.10821, table 1. The attention heads, small beside the paper's trunk, are left out.
    """
    with torch.device("meta"):
        network = build_network(default_spec("deeplabv3plus", 19, "resnet10t", attention="single"))

    def counted(scales: tuple[float, ...]) -> int:
        with FlopCounterMode(display=False) as counter:
            for scale in scales:
                network(torch.empty(2, 3, int(256 * scale), int(256 * scale), device="meta"))
        return counter.get_total_flops()

    single = counted((1.0,))
    assert counted((0.5, 1.0)) / single == pytest.approx(1.25, rel=0.01)
    assert counted((0.5, 1.0, 2.0)) / single == pytest.approx(5.25, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"attention": "explicit", "attention_scales": (0.5, 2.0)}, "1.0 among them"),
        ({"attention": "explicit", "attention_scales": (1.0, 1.0)}, "different numbers"),
        ({"attention": "explicit", "attention_scales": (1.0, 100.0)}, "up to 4"),
        ({"attention": "explicit", "attention_scales": (1.0, "2")}, "different numbers"),
        ({"attention": "explicit"}, "2 to 8"),
        ({"attention_scales": (0.5, 1.0)}, "only an explicit attention has any"),
        ({"attention": "best"}, "expected one of hierarchical, explicit, average, single"),
        ({"network": "hrnet-ocr", "encoder": None, "attention": "explicit"}, "hrnet-ocr has no explicit attention"),
    ],
)
def test_an_attention_that_no_network_has_is_refused(changes: dict[str, Any], problem: str) -> None:
    """A specification, which may come from a file, names an attention that can be built."""
    with pytest.raises(SettingsError, match=problem):
        NetworkSpec(**{"network": "deeplabv3plus", "num_classes": 3, "encoder": "resnet10t"} | changes)


def _average(logits: list[Tensor], size: tuple[int, int]) -> Tensor:
    resized = [nn.functional.interpolate(each, size, mode="bilinear", align_corners=False) for each in logits]
    return torch.stack(resized).mean(dim=0)


def test_average_is_the_mean_of_logits(fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor) -> None:
    """At scales 0.5, 1 and 2 the fused logits are the mean of the three, each brought to the image's size."""
    filled = fill_network(narrow_spec)
    with torch.inference_mode():
        single = []
        for scale in (0.5, 1.0, 2.0):
            size = (int(45 * scale), int(61 * scale))
            scaled = nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
            single.append(_average([filled(scaled).logits], size))
        joint = hierarchical_logits(filled, images, [0.5, 1.0, 2.0], "average")
    expected = _average(single, (45, 61))
    assert (joint - expected).abs().max() < 1e-4 * expected.abs().max()
