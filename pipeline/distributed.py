"""The processes that train together: one here, several that are started here, or those that a launcher has started.

What they do is in `pipeline.training`; Lightning Fabric connects them.
"""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch
import torch.distributed
import torch.multiprocessing
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from pipeline.training_settings import TrainSettings
from storage.errors import AutocoarseError, SettingsError, WorkerError

TIMEOUT = timedelta(hours=2)
"""How long the processes wait for each other: the first reads the labels, and alone writes. With gloo one that dies is
noticed at once, by its connection; with NCCL by whoever started the processes."""

# At import: the library announces its processes before any function of ours runs in them. Torch will rename an option
# that its older versions need.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")

Record = TypeVar("Record")
Work = Callable[[Fabric, TrainSettings], Iterator[Record]]


def launched_from_outside() -> bool:
    """Whether torchrun or srun has started this process as one of several."""
    return _launched_processes() > 1


def launched_by_slurm() -> bool:
    """Whether srun has started this process as one of several; it also gives each its own processors."""
    return launched_from_outside() and "TORCHELASTIC_RUN_ID" not in os.environ


def _launched_processes() -> int:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    # of srun alone: a batch script has SLURM's other variables too, but nothing has started it several times
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def is_first_process() -> bool:
    """Whether this process is the one that speaks for all of them."""
    if not launched_from_outside():
        return True
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def run_in_processes(work: Work[Record], settings: TrainSettings, device: torch.device) -> Iterator[Record]:
    """Do some work in as many processes as the settings ask for.

    Args:
        work: a function at module level, which every process calls; what it yields in the first process is yielded.
        settings: how many processes there are, and what they do.
        device: the type of their devices; its index counts for a single process only.

    Raises:
        SettingsError: there are not so many devices, or several machines and no launcher.
        WorkerError: a process died.
    """
    launched = _launched_processes()
    if launched not in (1, settings.world):
        raise SettingsError(
            f"{launched} processes were started together, but {settings.devices} devices on {settings.nodes} machines "
            f"are asked for; say --devices and --nodes so that their product is {launched}"
        )
    if settings.world == 1:
        yield from work(_single(device), settings)
    elif launched_from_outside():
        fabric = _several(settings, device, "popen")
        fabric.launch()
        yield from _work_together(fabric, work, settings)
    elif settings.nodes > 1:
        raise SettingsError(
            f"nodes is {settings.nodes}, but nothing has started this process as one of several: start the command on "
            f"every machine with torchrun --nnodes {settings.nodes} --nproc-per-node {settings.devices} "
            f"--no-python autocoarse ..., or with srun"
        )
    else:
        yield from _spawn(work, settings, device)


def _single(device: torch.device) -> Fabric:
    devices = 1 if device.type == "cpu" else [device.index or 0]
    return Fabric(accelerator=device.type, devices=devices)


def _several(settings: TrainSettings, device: torch.device, start: Any) -> Fabric:  # noqa: ANN401 - a literal of the library
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise SettingsError(f"devices is {settings.devices}, but this machine has {torch.cuda.device_count()}")
    # batch norm's statistics are synchronised as they arise, and need not be sent again
    strategy = DDPStrategy(start_method=start, broadcast_buffers=False, gradient_as_bucket_view=True, timeout=TIMEOUT)
    # processes that are started here must not take themselves for those of a batch system
    environment = [LightningEnvironment()] if start == "spawn" else None
    return Fabric(
        accelerator=device.type,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=strategy,
        plugins=environment,  # type: ignore[arg-type] # a list of one kind of plugin is one of plugins
    )


def _spawn(work: Work[Record], settings: TrainSettings, device: torch.device) -> Iterator[Record]:
    """Start the processes and hand on what the first one yields.

    Each has a pipe of its own: where one fails the others are killed, maybe in the middle of a message.
    """
    fabric = _several(settings, device, "spawn")
    pipes = [torch.multiprocessing.get_context("spawn").Pipe(duplex=False) for _ in range(settings.devices)]
    senders = tuple(sender for _, sender in pipes)
    ended: list[BaseException] = []

    def launch() -> None:
        try:
            fabric.launch(partial(_work_in_process, work=work, settings=settings, senders=senders))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            ended.append(error)
        finally:
            for sender in senders:  # then nobody has it open, and whoever reads a torn message learns of it
                sender.close()

    others = set(torch.multiprocessing.active_children())
    thread = threading.Thread(target=launch, name="training processes", daemon=True)
    thread.start()
    errors: list[Exception] = []
    try:
        for record in _receive([receiver for receiver, _ in pipes]):
            if isinstance(record, Exception):
                errors.append(record)
            else:
                yield record
    except BaseException:  # the consumer has gone: Ctrl-C, or it asks for no more
        for process in set(torch.multiprocessing.active_children()) - others:
            process.terminate()
        raise
    thread.join()
    _raise_failure(errors, ended)


def _raise_failure(errors: list[Exception], ended: list[BaseException]) -> None:
    """Raise what went wrong in the processes, if anything did.

    Args:
        errors: what they reported.
        ended: how their launcher ended, if not well.
    """
    # when one has stopped the others find their connection closed, which explains nothing
    for error in sorted(errors, key=lambda one: not isinstance(one, AutocoarseError)):
        if not _is_lost_connection(error):
            raise error
    if cause := [*errors, *ended]:
        raise WorkerError(
            f"a training process died: {str(cause[-1]).strip().splitlines()[-1]}; run the same command again to go on"
        ) from cause[-1]


def _is_lost_connection(error: Exception) -> bool:
    """Whether an error only says that another process is gone; known by its text, its type is any runtime error's."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))


def _receive(receivers: Sequence[Connection]) -> Iterator[Any]:
    """What comes through some pipes, until nobody has the other end of any open."""
    left = list(receivers)
    while left:
        ready = wait(left)
        for receiver in [one for one in left if one in ready]:
            try:
                yield receiver.recv()
            except (EOFError, OSError):  # closed, between two messages or within one
                left.remove(receiver)


def _work_together(fabric: Fabric, work: Work[Record], settings: TrainSettings) -> Iterator[Record]:
    """Work, and part in order: a process that ends while its connections are open is aborted now and then."""
    yield from work(fabric, settings)
    fabric.barrier("end")
    torch.distributed.destroy_process_group()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however it ended: the folder's lock has gone with it."""
    parent = torch.multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_in_process(fabric: Fabric, work: Work[Any], settings: TrainSettings, senders: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    sender = senders[fabric.local_rank]
    try:
        for record in _work_together(fabric, work, settings):
            if fabric.is_global_zero:
                sender.send(record)
    except Exception as error:
        sender.send(error)
        raise
