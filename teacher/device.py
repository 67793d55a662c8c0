"""Devices by name."""

import torch

from storage.errors import SettingsError


def find_device(name: str) -> torch.device:
    """Turn a device's name into a device that is there.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" for CUDA where there is one.

    Raises:
        SettingsError: no such device, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device is {name!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            f"use cpu, or install the driver and a torch built for it"
        )
    return device
