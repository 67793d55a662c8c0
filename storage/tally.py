"""What a ledger's entries add up to, without holding them in memory and without keeping their run from writing.

SQLite adds them up, some thousands at a time, and between two groups the run may commit. While a run is at work the
sums are of no single moment, therefore; each entry counts once, as it was when its group was read.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from storage.ledger import Ledger

_GROUP = 10_000
"""Entries added up in one read: some 30 ms, for which a commit may have to wait."""

_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed, and when."""

    key: str
    reason: str
    failed_ns: int
    """When; 0 where the ledger does not say."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over a ledger's entries."""

    done: int
    failed: int
    done_since: tuple[int, ...]
    """Of the done items, those whose label is not older than each of the moments that were asked for."""
    failed_since: tuple[int, ...]
    """Of the failed items, those that failed then or later."""
    bytes: int
    """Of all labels."""
    pixels: int
    ignored: int
    last_label_ns: int
    """When the latest label was written; 0 without labels."""
    failures: tuple[Failure, ...]
    """The latest ones, the latest first."""


def tally(ledger: Ledger, moments_ns: Sequence[int]) -> Tally:
    """Add up a ledger's entries.

    Args:
        ledger: opened in whatever way; a run may write it meanwhile.
        moments_ns: moments, in ns since 1970, since which items are counted.

    Raises:
        WorkspaceError: the ledger cannot be read.
    """
    since = "".join(f", sum(status = '{kind}' AND modified_ns >= ?)" for kind in ("done", "failed") for _ in moments_ns)
    columns = "key, status, height, width, ignored, bytes, modified_ns"  # all before the long ones in a row
    query = (
        "SELECT count(*), max(key), sum(status = 'done'), sum(status = 'failed'), sum((status = 'done') * bytes), "  # noqa: S608 - of the texts above
        "sum((status = 'done') * height * width), sum((status = 'done') * ignored), "
        f"max((status = 'done') * modified_ns){since} "
        f"FROM (SELECT {columns} FROM entries WHERE key > ? ORDER BY key LIMIT {_GROUP})"
    )
    sums = [0] * (5 + 2 * len(moments_ns))
    failures: list[Failure] = []
    last_label_ns, key, count = 0, "", _GROUP
    while count == _GROUP:
        ((count, last_key, *found),) = ledger.read(query, (*moments_ns, *moments_ns, key))
        if not count:
            break
        done, failed, size, pixels, ignored, latest, *counts = found
        sums = [a + b for a, b in zip(sums, (done, failed, size, pixels, ignored, *counts), strict=True)]
        last_label_ns = max(last_label_ns, latest)
        if failed:
            failures = heapq.nlargest(
                _FAILURES, [*failures, *_latest(ledger, key, last_key)], key=lambda f: f.failed_ns
            )
        key = last_key
    done, failed, size, pixels, ignored, *counts = sums
    half = len(moments_ns)
    return Tally(
        done, failed, tuple(counts[:half]), tuple(counts[half:]), size, pixels, ignored, last_label_ns, tuple(failures)
    )


def _latest(ledger: Ledger, after: str, until: str) -> list[Failure]:
    """The latest failures of one group."""
    query = (
        "SELECT key, reason, modified_ns FROM entries WHERE key > ? AND key <= ? AND status = 'failed' "
        "ORDER BY modified_ns DESC LIMIT ?"
    )
    return [Failure(*row) for row in ledger.read(query, (after, until, _FAILURES))]
