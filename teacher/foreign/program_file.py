"""Exported programs as torch.export writes them, read as data: a list of operators, and weights as bytes.

torch's own reading of such a file evaluates expressions in it, writes node names into Python source that it runs, takes
any function of torch as an operator, and unpickles. So the file is not given to torch: what is read here is a list of
steps, each an operator that `teacher.foreign.operators` knows, with plain arguments. `program_run` runs them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from storage.errors import CheckpointError
from teacher.foreign.archive import Archive
from teacher.foreign.image_form import ImageForm, Side
from teacher.foreign.program_guards import Guard
from teacher.foreign.program_steps import Step, read_steps
from teacher.foreign.program_values import DTYPES, only, read_tensors

MAX_PROGRAM_BYTES = 2**27
"""Of a program's text."""
_MAJOR = 8
"""Of the form that is read; torch 2.9 and newer write it."""
_ADVICE = "export it by torch 2.9 or newer with torch.export.save"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was read and checked."""

    steps: tuple[Step, ...]
    image: str
    """Name of its input."""
    image_type: torch.dtype
    output: str
    """Name of its output."""
    tensors: Mapping[str, Tensor]
    """Weights and constants, by the names that the steps know them by; on the CPU."""
    form: ImageForm
    guards: tuple[Guard, ...]
    facts: dict[str, str]


def read_program(archive: Archive) -> Program:
    """Read a program.

    Args:
        archive: what torch.export.save wrote.

    Raises:
        CheckpointError: it is damaged, of another version, uses what is not allowed, or is no network from images to
            scores; the message says which.
    """
    where = str(archive.path)
    name = _only_program(archive)
    content = _json(archive, f"models/{name}.json")
    try:
        _check_version(content["schema_version"]["major"], where)
        module = content["graph_module"]
        graph, signature = module["graph"], module["signature"]
        image, targets = _inputs(signature["input_specs"], where)
        steps = tuple(read_steps(graph["nodes"], where))
        form, image_type = _form(graph["tensor_values"][image], content.get("range_constraints", {}), where)
        guards = _guards(content.get("guards_code", []), where)
        output = _output(signature["output_specs"], graph["tensor_values"], where)
        tensors = _weights(archive, name, targets)
    except CheckpointError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError, RuntimeError) as error:
        raise CheckpointError(
            f"{where} is no exported program that can be read ({type(error).__name__}: {str(error)[:200]}); {_ADVICE}"
        ) from error
    facts = {"made by": f"torch {str(content.get('torch_version'))[:40]}", "operators": str(len(steps))}
    return Program(steps, image, image_type, output, tensors, form, guards, facts)


def _check_version(version: object, where: str) -> None:
    if version != _MAJOR:
        raise CheckpointError(
            f"{where} is written in form {str(version)[:20]} of exported programs, expected {_MAJOR}: {_ADVICE}"
        )


def _only_program(archive: Archive) -> str:
    names = [name.removeprefix("models/").removesuffix(".json") for name in archive.names("models/")]
    if len(names) != 1:
        compiled = " (it holds compiled code, which is not run)" if archive.names("data/aotinductor/") else ""
        raise CheckpointError(f"{archive.path} holds {len(names)} exported programs, expected one{compiled}; {_ADVICE}")
    return names[0]


def _json(archive: Archive, name: str) -> dict[str, Any]:
    if archive.size(name) > MAX_PROGRAM_BYTES:
        raise CheckpointError(
            f"{archive.path}: the text {name!r} has more than {MAX_PROGRAM_BYTES} bytes; no network needs that"
        )
    try:
        content = json.loads(archive.read_text(name))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{archive.path}: the text {name!r} is no JSON ({error}); it is damaged") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{archive.path}: the text {name!r} is no table; it is damaged")
    return content


def _inputs(specs: list[Any], where: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The name of the image, and for each other input its kind and what it is called among the weights."""
    images: list[str] = []
    targets: dict[str, tuple[str, str]] = {}
    for spec in specs:
        kind, content = only(spec)
        if kind == "user_input":
            its_kind, value = only(content["arg"])
            images.append(str(value["name"]) if its_kind == "as_tensor" else "")
        elif kind in ("parameter", "buffer", "tensor_constant"):
            targets[str(content["arg"]["name"])] = (
                "constants" if kind == "tensor_constant" or content.get("persistent") is False else "weights",
                str(content[f"{kind}_name"]),
            )
        else:
            images.append("")
    if len(images) != 1 or not images[0]:
        raise CheckpointError(
            f"{where} is an exported program of other inputs: it takes {len(images)}, expected one tensor of images, "
            f"(batch, 3, height, width); export the network so that it takes normalised images alone"
        )
    return images[0], targets


def _form(meta: dict[str, Any], ranges: dict[str, Any], where: str) -> tuple[ImageForm, torch.dtype]:
    sizes = meta["sizes"]
    told = ", ".join(str(content) if kind == "as_int" else "open" for kind, content in map(only, sizes))
    dtype = DTYPES.get(meta["dtype"])
    if len(sizes) != 4 or only(sizes[1]) != ("as_int", 3) or dtype is None or not dtype.is_floating_point:
        raise CheckpointError(
            f"{where} is an exported program of other inputs: it takes ({told}) of {dtype}, expected images of "
            f"floating point, (batch, 3, height, width)"
        )
    batch = only(sizes[0])
    if batch[0] == "as_int" and batch[1] != 1:
        raise CheckpointError(
            f"{where} takes exactly {batch[1]} images at a time: export it with a batch of 1, or with one that is open"
        )
    height, width = (_side(size, ranges) for size in sizes[2:])
    return ImageForm(height, width, single=batch[0] == "as_int"), dtype


def _side(size: Any, ranges: dict[str, Any]) -> Side:  # noqa: ANN401 - parsed JSON
    kind, content = only(size)
    if kind == "as_int":
        if type(content) is not int or content < 1:
            raise ValueError(f"a side has {str(content)[:20]} pixels")
        return Side(content)
    text = str(content["expr_str"])
    found = {part for pair in re.findall(r"Symbol\('(\w+)'|\b(s\d+)\b", text) for part in pair if part}
    factors = [
        int(number) for number in re.findall(r"Integer\((\d+)\)|(?<![\w.])(\d+)\*", text) for number in number if number
    ]
    if len(found) != 1 or len(factors) > 1 or "Add(" in text or "+" in text or "-" in text:
        return Side()  # some other arithmetic: what it does not take, it fails at
    multiple = factors[0] if factors else 1
    bounds = ranges.get(found.pop(), {})
    least, most = bounds.get("min_val"), bounds.get("max_val")
    return Side(
        multiple=max(multiple, 1),
        least=least * multiple if type(least) is int and least > 0 else 1,
        most=most * multiple if type(most) is int and 0 < most < 2**31 else None,
    )


def _guards(texts: list[Any], where: str) -> tuple[Guard, ...]:
    made = []
    for text in texts or ():
        try:
            made.append(Guard(str(text)))
        except ValueError as error:
            raise CheckpointError(
                f"{where} holds only where {str(text)[:200]!r}, which cannot be checked ({error}): export it with "
                f"other dynamic_shapes, or of one size"
            ) from error
    return tuple(made)


def _output(specs: list[Any], values: dict[str, Any], where: str) -> str:
    names: list[str] = []
    for spec in specs:
        kind, content = only(spec)
        if kind != "user_output":
            raise CheckpointError(
                f"{where} changes its own weights or its image when it is run ({kind[:40]}): export it after .eval()"
            )
        its_kind, value = only(content["arg"])
        if its_kind == "as_tensor":
            names.append(str(value["name"]))
    usable = [name for name in names if len(values[name]["sizes"]) == 4]
    if not usable:
        shapes = "; ".join(f"{len(values[name]['sizes'])} axes" for name in names) or "no tensor"
        raise CheckpointError(
            f"{where} gives {shapes}: expected scores, (batch, labels, height, width); export the network's logits"
        )
    return usable[0]


def _weights(archive: Archive, name: str, targets: dict[str, tuple[str, str]]) -> dict[str, Tensor]:
    found: dict[str, dict[str, Tensor]] = {}
    for kind in ("weights", "constants"):
        member = f"data/{kind}/{name}_{kind}_config.json"
        if member not in archive:
            raise CheckpointError(f"{archive.path} was written by an older torch, weights pickled: {_ADVICE}")
        found[kind] = read_tensors(archive, _json(archive, member)["config"], f"data/{kind}/")
    return {called: found[kind][target] for called, (kind, target) in targets.items()}
