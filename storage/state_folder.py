"""Where the driver of a run that lies in a store keeps what must be on a disk: the ledger and the lock."""

import hashlib
import os
import re
from pathlib import Path

from storage.paths import path_text

VARIABLE = "AUTOCOARSE_STATE"
"""Environment variable that names the folder of all runs' state folders."""


def state_folder(root: Path) -> Path:
    """The state folder of a run in a store: of the same URL the same one, of another URL another.

    It is below $AUTOCOARSE_STATE, else $XDG_STATE_HOME/autocoarse, else ~/.local/state/autocoarse.

    Args:
        root: the run.
    """
    url = path_text(root)
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", url.rpartition("/")[2])[:60].lstrip(".")
    return _base() / f"{name or 'run'}-{digest}"


def _base() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "autocoarse"
