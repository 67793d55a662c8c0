"""Whether a run's lock is taken, seen without taking it away from anyone."""

import fcntl
import os
from pathlib import Path

LOOK_SECONDS = 0.3
"""For how long a lock is asked for again, so that one who only looks whether it is taken cannot keep it from a run."""


def is_taken(lock_file: Path) -> bool:
    """Whether a process holds the lock of a file; also where the file system has no locks to tell.

    That can only be seen by asking for a shared one, which is given back at once; who takes the lock asks for far
    longer than that takes.
    """
    try:
        descriptor = os.open(lock_file, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
