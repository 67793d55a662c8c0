"""What the process's exit status says; the contract scripts rely on."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_ITEMS_FAILED = 3
    BUDGET_OR_GATE = 4
    INTERRUPTED = 130


def stop_where_items_failed(failed: int, total: int) -> None:
    """End the command, by a status of its own, where items failed: all of them, or some."""
    if failed:
        raise SystemExit(ExitCode.FAILED if failed == total else ExitCode.SOME_ITEMS_FAILED)
