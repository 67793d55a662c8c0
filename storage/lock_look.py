"""A run's lock: taken, and seen to be taken without taking it away from anyone."""

import fcntl
import os
import time
from pathlib import Path

from filelock import FileLock, Timeout

LOOK_SECONDS = 0.3
"""For how long a lock is asked for before it is looked who has it."""

PATIENCE_SECONDS = 60.0
"""For how long those who only look are waited for: a look is short, but a busy machine may halt who looks."""


def take(lock_file: Path) -> FileLock:
    """Take a lock. One who only looks whether it is taken cannot keep it from a run.

    Raises:
        Timeout: a process has it.
        OSError: the file cannot be written.
    """
    lock = FileLock(lock_file, timeout=LOOK_SECONDS)
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            lock.acquire()
        except Timeout:
            if is_taken(lock_file) or time.monotonic() > end:
                raise
        else:
            return lock


def is_taken(lock_file: Path) -> bool:
    """Whether a process holds the lock of a file; also where the file system has no locks to tell.

    That can only be seen by asking for a shared one, which any number may have and is given back at once.
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
