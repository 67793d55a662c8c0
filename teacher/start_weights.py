"""Weights that a whole network starts from: a file made for the same network, perhaps for other classes.

What the file lacks keeps its start values. Weights that must fit throughout are loaded by `teacher.weights`, those of
an encoder alone by `teacher.encoder_weights`.
"""

from pathlib import Path

from torch import Tensor, nn

from storage.errors import CheckpointError
from teacher.encoder_weights import COUNTER
from teacher.weights import list_some, read_state_dict


def load_start_weights(network: nn.Module, num_classes: int, path: Path) -> str:
    """Load all entries of a file that fit into a network.

    Args:
        network: takes the weights; the others of its entries keep their values.
        num_classes: of the network. Only entries whose first axis are the classes may have another length in the file.
        path: an own checkpoint, or public weights of the same network.

    Returns:
        What did not fit, in a sentence; empty where everything did.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is no checkpoint, or of another network; the network is unchanged.

    Source: the public training code of arXiv:2005.10821 starts so from weights of a network without scale attention and
    of other classes. There an entry of any other shape is passed over, too.
    """
    source = read_state_dict(path)
    own = network.state_dict()
    wanted = [name for name in own if not name.endswith(COUNTER)]
    missing = [name for name in wanted if name not in source]
    misshaped = [name for name in wanted if name in source and source[name].shape != own[name].shape]
    foreign = [name for name in misshaped if not _differs_in_classes(own[name], source[name], num_classes)]
    if foreign or len(missing) + len(misshaped) == len(wanted):
        shapes = [f"{name} {tuple(source[name].shape)} instead of {tuple(own[name].shape)}" for name in foreign]
        reason = list_some(shapes) or f"none of its entries fits; it has {list_some(source)}"
        raise CheckpointError(
            f"{path}: is not for this network. {reason}. Give weights of the very network that is trained; those of an "
            f"encoder alone are --encoder-weights"
        )
    taken = {name: value for name, value in source.items() if name in own and name not in misshaped}
    network.load_state_dict(own | taken)
    return _describe(path, missing, misshaped, [name for name in source if name not in own])


def _differs_in_classes(own: Tensor, given: Tensor, num_classes: int) -> bool:
    same_rest = own.ndim == given.ndim > 0 and own.shape[1:] == given.shape[1:]
    return same_rest and own.shape[0] == num_classes


def _describe(path: Path, missing: list[str], misshaped: list[str], unused: list[str]) -> str:
    parts = [
        f"{len(names)} entries {what}: {list_some(names)}"
        for names, what in (
            (misshaped, "are for another number of classes and keep their start values"),
            (missing, "are not in it and keep their start values"),
            (unused, "of it are not used"),
        )
        if names
    ]
    return f"{path}: {'; '.join(parts)}" if parts else ""
