"""Laws of the queue of shards: whatever comes back and whoever dies, each item is sent until it is done or given up."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dask_pool import PooledWorker
from pipeline.shard_queue import ATTEMPTS, Shard, ShardQueue
from storage.layouts import Item


def items(count: int) -> list[Item]:
    """So many items."""
    return [Item(f"{number}", Path(f"{number}.png")) for number in range(count)]


def a_worker(shard_items: int = 4) -> PooledWorker:
    """A worker that has nothing."""
    return PooledWorker("id", "tcp://127.0.0.1:1", state="ready", shard_items=shard_items)


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.lists(st.sampled_from(["done", "died", "lost", "doubted"])))
def test_every_item_is_done_or_given_up_once(count: int, deadly: set[int], fates: list[str]) -> None:
    """Items that kill whoever has them are given up; all others are done, however often a shard is lost."""
    queue, workers = ShardQueue(iter(items(count)), count, 1), [a_worker(), a_worker()]
    done: list[str] = []
    given_up: list[str] = []
    turn = 0
    for step in range(10_000):
        worker = workers[step % 2]
        if (shard := queue.next_for(worker, 2)) is None:
            if queue.is_empty:
                break
            continue
        assert shard.doubted is not worker
        fate = fates[turn] if turn < len(fates) else "done"
        turn += 1
        if any(int(item.key) in deadly for item in shard.items) or fate == "died":
            if (item := queue.died_with(shard)) is not None:
                given_up.append(item.key)
        elif fate == "lost":
            queue.sent_back(shard)
        elif fate == "doubted" and shard.doubted is None:
            queue.again(shard.items, doubted=worker)
        else:
            done += [item.key for item in shard.items]
    assert sorted(done + given_up, key=int) == [item.key for item in items(count)]
    if "died" not in fates:
        assert {int(key) for key in given_up} == {number for number in deadly if number < count}


def test_an_item_is_given_up_after_as_many_deaths_alone_as_are_stated() -> None:
    """A death that it shared with others, or that came while the worker had another shard too, does not count."""
    queue, worker = ShardQueue(iter(items(1)), 1, 1), a_worker()
    shard = queue.next_for(worker, 1)
    deaths = 0
    while shard is not None and queue.died_with(shard) is None:
        deaths += 1
        shard = queue.next_for(worker, 1)
    assert deaths == ATTEMPTS


def test_a_suspect_is_sent_to_a_worker_that_has_nothing_else() -> None:
    """And while one waits, nobody who is busy gets more: somebody must become free for it."""
    queue, busy, idle = ShardQueue(iter(items(9)), 9, 1), a_worker(), a_worker()
    busy.flights = 1
    assert queue.died_with(Shard(tuple(items(2)))) is None
    assert queue.next_for(busy, 2) is None
    suspect = queue.next_for(idle, 2)
    assert suspect is not None
    assert (suspect.suspect, len(suspect.items)) == (True, 1)


def test_towards_the_end_shards_become_small() -> None:
    """Nobody gets what others, who would have nothing to do, could do meanwhile."""
    queue, worker = ShardQueue(iter(items(100)), 100, 1), a_worker(64)
    sizes = []
    while (shard := queue.next_for(worker, 4)) is not None:
        sizes.append(len(shard.items))
    assert sum(sizes) == 100
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]


def test_a_doubted_shard_is_another_workers_unless_there_is_none() -> None:
    """A second opinion is that of another; where there is one worker left, its own has to do."""
    queue, first, second = ShardQueue(iter(()), 0, 1), a_worker(), a_worker()
    queue.again(tuple(items(1)), doubted=first)
    assert queue.next_for(first, 2) is None
    assert queue.next_for(second, 2) is not None
    queue.again(tuple(items(1)), doubted=first)
    assert queue.next_for(first, 1) is not None
