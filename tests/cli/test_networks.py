"""`autocoarse networks`: what is listed is what can be trained, with the figures it really has."""

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from pipeline import network_catalogue
from pipeline.fitting import memory_of
from pipeline.network_catalogue import RECOMMENDED, Choice, Weights, weights_of
from storage.schema import load_schema
from teacher import Teacher
from teacher.networks.registry import build_network, network_names


def networks(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["networks", *arguments])


def listed(*arguments: str) -> list[dict[str, Any]]:
    """What it lists, read from its last line."""
    result = networks(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["size"], content["classes"]) == ("2048x1024", 19)
    return list(content["networks"])


def test_every_network_is_listed_with_its_parameters_and_the_terms_of_its_weights() -> None:
    """The list has each network of the registry, none of its own unmeasured figures made up, and a licence for each."""
    found = listed()
    assert {one["network"] for one in found} == set(network_names())
    assert len(found) == len(RECOMMENDED)
    teacher = next(one for one in found if one["encoder"] == "hrnet_w48")
    assert teacher["parameters"] == 72_143_430
    assert teacher["licence"] == "mit"
    assert teacher["output_stride"] is None
    assert all(one["operations"] is one["memory_bytes"] is None for one in found)
    assert all(one["licence"] and one["weights_by_file"] for one in found)
    wide = next(one for one in found if one["encoder"] == "wide_resnet38")
    assert "non-commercial" in wide["licence"]


def test_any_encoder_can_be_asked_for_with_all_figures() -> None:
    """A single network has the parameters of the network that is built, and the memory that labelling plans with."""
    (found,) = listed("--encoder", "mobilenetv3_small_050", "--measure")
    spec = Choice("deeplabv3plus", "mobilenetv3_small_050").spec()
    network = build_network(spec)
    teacher = Teacher.of_network(network, spec, load_schema("cityscapes"))
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["memory_bytes"] == memory_of(teacher).peak((1024, 2048), (1.0,)) + teacher.weight_bytes
    # two operations for each weight of the classifier, the smallest part, at each place
    assert found["operations"] > 2 * 256 * 19 * 256 * 512


def test_people_get_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --json there is a line a network, and with --measure what an operation is."""
    monkeypatch.setattr(network_catalogue, "RECOMMENDED", (Choice("deeplabv3plus", "mobilenetv3_small_050"),))
    plain, measured = networks().stdout, networks("--measure").stdout
    assert "mobilenetv3_small_050      16" in plain
    assert "operations" not in plain
    assert "a multiplication and its addition are two operations" in " ".join(measured.split())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--encoder", "resnet500"), "has no encoder 'resnet500'"),
        (("--network", "hrnet-ocr", "--encoder", "resnet50"), "choose the trunk's width"),
        (("--network", "hrnet-ocr", "--output-stride", "8"), "hrnet-ocr has none"),
        (("--encoder", "vit_tiny_patch16_224"), "cannot be used by deeplabv3plus"),
        (("--encoder", "resnet10t", "--output-stride", "4"), "output_stride is 4"),
    ],
)
def test_what_is_no_network_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    """An encoder that there is not, or that a network cannot use, is a usage error that says why."""
    result = networks(*arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_terms_are_those_that_are_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A licence is timm's word where it has one, and none is claimed for weights that nobody publishes."""
    assert weights_of("resnet10t") == Weights("timm's resnet10t.c3_in1k", "apache-2.0")
    monkeypatch.setattr(network_catalogue, "get_pretrained_cfg", lambda _: None)
    assert weights_of("resnet10t") == Weights("none published", "not stated")


def test_train_takes_what_is_listed() -> None:
    """The option --network of `train` has the registry's names."""
    option = next(p for p in main.commands["train"].params if p.name == "network")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == network_names()
