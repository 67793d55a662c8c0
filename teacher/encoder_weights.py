"""ImageNet weights for the encoder of a network, from a file in whatever names it has.

Everything but the encoder keeps its values, and what a file holds beyond the encoder (its classifier) is left out.
"""

from pathlib import Path

from torch import Tensor, nn

from storage.errors import CheckpointError, SettingsError
from teacher.networks.deeplab import DeepLab
from teacher.networks.hrnet import HRNet
from teacher.networks.hrnet_ocr import HRNetOCR
from teacher.networks.wide_resnet import WideResNet
from teacher.weights import StateDict, list_some, load_strictly, read_state_dict

PREFIXES = ("", "model.", "backbone.", "encoder.model.", "encoder.")
"""What may stand before the encoder's names: nothing, a wrapper, or the name it has in an own checkpoint."""
COUNTER = "num_batches_tracked"
"""Batch norm's counter: not a weight, and absent from older files."""


def load_encoder_weights(network: nn.Module, path: Path) -> None:
    """Load weights into a network's encoder: by name, or in order where the file has other names.

    In order means: the file begins with just the encoder's sequence of shapes and kinds (weight, bias, running mean and
    variance), so that a file written by another port of the same network fits and any other does not. The trunks that
    are not timm's, HRNet and wide ResNet-38, have public files in their own names: these are taken by name only, and
    hold nothing beyond the trunk but the classifier of ImageNet.

    Args:
        network: a `DeepLab` or an `HRNetOCR`.
        path: the file of weights.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is no checkpoint, or does not fit; the network is unchanged.
        SettingsError: the network has no encoder to load.
    """
    if isinstance(network, DeepLab):
        encoder = network.encoder if isinstance(network.encoder, WideResNet) else network.encoder.model
    elif isinstance(network, HRNetOCR):
        encoder = network.backbone
    else:
        raise SettingsError(f"a {type(network).__name__} has no encoder to load; expected DeepLab or HRNetOCR")
    assert isinstance(encoder, nn.Module), "an encoder is one, or holds one"
    source = read_state_dict(path)
    own = encoder.state_dict()
    wanted = {name: value for name, value in own.items() if not name.endswith(COUNTER)}
    if isinstance(encoder, HRNet | WideResNet):
        load_strictly(encoder, own | _trunk_entries(wanted, source, encoder.HEAD, path), str(path))
        return
    found = _by_name(wanted, source) or _in_order(wanted, source)
    if found is None:
        raise CheckpointError(_misfit(wanted, source, path))
    load_strictly(encoder, own | found, str(path))


def _trunk_entries(wanted: StateDict, source: StateDict, head: tuple[str, ...], path: Path) -> StateDict:
    """The entries of a trunk that has a public layout of its own: all of them, and none that is unknown.

    Args:
        wanted: the trunk's entries.
        source: the file's.
        head: beginnings of the names that the file may have beyond them.
        path: the file, for the message.

    Raises:
        CheckpointError: entries are missing or unknown.
    """
    prefix = max(PREFIXES, key=lambda p: sum(p + name in source for name in wanted))
    named = {name.removeprefix(prefix): v for name, v in _weights(source) if name.startswith(prefix)}
    missing = [name for name in wanted if name not in named]
    unknown = [name for name in named if name not in wanted and not name.startswith(head)]
    if missing or unknown:
        problems = [
            f"{len(names)} {kind}: {list_some(names)}"
            for kind, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise CheckpointError(
            f"{path}: is not for this encoder. {'; '.join(problems)}. Give the ImageNet weights of the very trunk that "
            f"was named, in its public layout"
        )
    return {name: named[name] for name in wanted}


def _flat(name: str) -> str:
    # timm writes stages.0 as stages_0 where it takes a network's features only.
    return name.replace(".", "_")


def _by_name(wanted: StateDict, source: StateDict) -> StateDict | None:
    for prefix in PREFIXES:
        named = {_flat(name.removeprefix(prefix)): value for name, value in source.items() if name.startswith(prefix)}
        if all(_flat(name) in named for name in wanted):
            return {name: named[_flat(name)] for name in wanted}
    return None


def _kind(name: str, value: Tensor) -> tuple[str, tuple[int, ...]]:
    return name.rpartition(".")[2], tuple(value.shape)


def _weights(source: StateDict) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in source.items() if not name.endswith(COUNTER)]


def _in_order(wanted: StateDict, source: StateDict) -> StateDict | None:
    given = _weights(source)[: len(wanted)]
    if [_kind(*entry) for entry in given] != [_kind(*entry) for entry in wanted.items()]:
        return None
    return {name: value for name, (_, value) in zip(wanted, given, strict=True)}


def _misfit(wanted: StateDict, source: StateDict, path: Path) -> str:
    given = _weights(source)
    flat = {_flat(name) for name, _ in given}
    named = sum(_flat(name) in flat for name in wanted)
    pairs = zip(wanted.items(), given, strict=False)
    departure = next((pair for pair in pairs if _kind(*pair[0]) != _kind(*pair[1])), None)
    if departure:
        (own, value), (other, got) = departure
        order = f"{own} {tuple(value.shape)} meets {other} {tuple(got.shape)}"
    else:
        order = f"the file ends after {len(given)} of {len(wanted)} entries"
    return (
        f"{path}: is not for this encoder. By name {named} of {len(wanted)} entries are there; in order, {order}. "
        f"Give the ImageNet weights of the very encoder that was named"
    )
