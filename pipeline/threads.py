"""Work of many small items in threads: ahead of who needs it, or recorded in groups by the thread that asked for it.

What an item's work is, and where it is recorded, is the caller's.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from storage.ledger import Entry

_GROUP_ITEMS, _GROUP_SECONDS = 64, 1.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_and_record(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    record: Callable[[list[Result]], list[Entry]],
    workers: int,
    first: Iterable[Result] = (),
) -> Iterator[Entry]:
    """Work on items in threads, in order, and record the results in groups: a commit waits for the disk.

    Args:
        items: taken as they are needed, a few ahead.
        work: done in a thread; what it raises ends the work.
        record: records results, and gives their entries; called by this thread alone.
        workers: number of threads.
        first: results to record that need no work.

    Yields:
        The entry of each item, once it is recorded. Also after an error, or when the caller goes away, what was
        finished is recorded.
    """
    finished = list(first)
    working: deque[Future[Result]] = deque()
    recorded = time.monotonic()

    def take() -> list[Result]:
        taken, finished[:] = finished[:], []
        return taken

    with ThreadPoolExecutor(workers, "work") as pool:
        try:
            for item in items:
                working.append(pool.submit(work, item))
                while working and (len(working) >= 4 * workers or working[0].done()):
                    finished.append(working.popleft().result())
                if len(finished) >= _GROUP_ITEMS or time.monotonic() - recorded >= _GROUP_SECONDS:
                    recorded = time.monotonic()
                    yield from record(take())
            while working:
                finished.append(working.popleft().result())
            yield from record(take())
        finally:
            pool.shutdown(cancel_futures=True)
            left = [future for future in working if not future.cancelled()]
            record(take() + [future.result() for future in left if future.exception() is None])


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], pool: ThreadPoolExecutor, depth: int
) -> Iterator[Result]:
    """Work on items in threads and give the results in order, at most `depth` items ahead of the consumer.

    Args:
        work: done in a thread; what it raises is raised here, in its turn.
        items: taken as they are needed.
        pool: the threads.
        depth: results that wait, or are being made, at a time; at least 1.
    """
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) >= depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
