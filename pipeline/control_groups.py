"""The control groups that a process is in, by which Linux limits what it may take."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Find the folders of this process's control groups, and of the groups around them, of both versions.

    Args:
        controller: "cpu" or "memory".
        root: folder in which `proc` and `sys` are.

    Yields:
        Folders, which need not be there: a container may see only a part of the tree.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mount = root / "sys/fs/cgroup"
            if controllers:  # of version 1, where each controller has a tree of its own
                if controller not in controllers.split(","):
                    continue
                mount /= controller
            group = mount / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))
