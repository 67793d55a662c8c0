"""Opens the workers that a run's settings name."""

import os
import uuid
from importlib.util import find_spec

from pipeline.byte_grants import ByteGrants
from pipeline.dask_cluster import Certificates, Cluster, ExistingCluster, LocalProcesses
from pipeline.dask_task import Offer
from pipeline.dask_workers import DaskWorkers
from pipeline.labeller import LabelJob
from pipeline.settings import LabelSettings
from pipeline.teacher_source import TeacherSource
from storage.account import ByteAccount
from storage.budget import measure_bytes
from storage.errors import SettingsError


def open_dask_workers(
    settings: LabelSettings, job: LabelJob, source: TeacherSource, account: ByteAccount
) -> DaskWorkers:
    """Start the processes of this machine, or connect to the cluster that is there.

    Raises:
        SettingsError: there are not as many GPUs as are asked for, or the address is none.
        WorkerError: no scheduler answers.
        WorkspaceError: the run's folder cannot be written.
    """
    cluster = _cluster(settings)
    offer = Offer(f"autocoarse-{uuid.uuid4().hex}", job, source, settings.images.absolute())
    # what a worker must find to know that it sees this very folder
    job.workspace.publish(job.workspace.scratch / offer.name, b"", small=True)
    grants = ByteGrants(account, lambda: measure_bytes(job.workspace.root).total_bytes)
    return DaskWorkers(cluster, offer, grants)


def _cluster(settings: LabelSettings) -> Cluster:
    if settings.scheduler is not None:
        certificates = Certificates(settings.tls_ca, settings.tls_cert, settings.tls_key)
        return ExistingCluster(settings.scheduler, certificates)
    if settings.dashboard and find_spec("bokeh") is None:
        raise SettingsError("dask's dashboard needs bokeh; pip install 'autocoarse[dashboard]', or leave it out")
    count, gpus = settings.workers or 0, visible_gpus(settings.device)
    if not count and not gpus:
        raise SettingsError("workers is 0, one a GPU, and there is no GPU; give the number of processes")
    if count > len(gpus) > 0:
        raise SettingsError(
            f"workers is {count}, and there are {len(gpus)} GPUs: {', '.join(gpus)}; two on one would only share it"
        )
    return LocalProcesses(count or len(gpus), gpus[: count or None], dashboard=settings.dashboard)


def visible_gpus(device: str) -> tuple[str, ...]:
    """The GPUs that processes can be given, in the terms of CUDA_VISIBLE_DEVICES.

    Args:
        device: as in the settings; a single GPU, or the CPU, is not given to many.

    Raises:
        SettingsError: the device is one GPU.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return ()
    if device not in ("auto", "cuda"):
        raise SettingsError(f"device is {device!r}, one GPU; with workers give cuda, and each has one of its own")
    count, told = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    # the driver takes no notice of the list from the first device on that is not there
    return tuple(told.split(",")[:count]) if told else tuple(map(str, range(count)))
