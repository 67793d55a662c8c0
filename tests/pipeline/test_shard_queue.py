"""Laws of the queue of shards: whatever comes back and whoever dies, each item is sent until it is done or given up."""

from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import dask_pool, shard_queue
from pipeline.dask_pool import PooledWorker, State, WorkerPool
from pipeline.dask_task import Offer
from pipeline.shard_queue import ATTEMPTS, Shard, ShardQueue
from storage.layouts import Item
from storage.ledger import Entry


def items(count: int) -> list[Item]:
    """So many items."""
    return [Item(f"{number}", Path(f"{number}.png")) for number in range(count)]


def a_worker(shard_items: int = 4) -> PooledWorker:
    """A worker that has nothing."""
    return PooledWorker("id", "tcp://127.0.0.1:1", state="ready", shard_items=shard_items)


def failures(shard: Shard) -> tuple[Entry, ...]:
    """What a broken device makes of a shard."""
    return tuple(Entry(key=item.key, status="failed", settings_digest="") for item in shard.items)


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
            assert queue.believed(shard, worker, failures(shard)) == []
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


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 40), st.integers(0, 200), st.booleans())
def test_a_failure_is_believed_only_of_two(count: int, joins: int, patience: bool) -> None:
    """Whenever another worker joins one that fails all, all is done; where none does, it is asked twice, then held."""
    queue, broken, good = ShardQueue(iter(items(count)), count, 1), a_worker(), a_worker()
    done: list[str] = []
    failed: list[str] = []
    tries = dict.fromkeys((item.key for item in items(count)), 0)
    for step in range(1000):
        workers = [broken, good] if step >= joins else [broken]
        for worker in workers:
            if (shard := queue.next_for(worker, len(workers), is_sole_judge=patience and worker is broken)) is None:
                continue
            if worker is good:
                done += [item.key for item in shard.items]
                continue
            for item in shard.items:
                tries[item.key] += 1
            failed += [entry.key for entry in queue.believed(shard, broken, failures(shard))]
    assert queue.is_empty
    assert sorted(done + failed) == sorted(tries)
    assert patience or not failed
    assert all(tries[key] == 2 for key in failed)


def test_what_waits_for_another_is_bounded() -> None:
    """A worker that fails all takes no more of a large set than may be put aside, until another has come."""
    queue, broken, good = ShardQueue(iter(items(5000)), 5000, 1), a_worker(64), a_worker(64)
    taken = 0
    while (shard := queue.next_for(broken, 1)) is not None:
        taken += len(shard.items)
        queue.believed(shard, broken, failures(shard))
    assert shard_queue._ASIDE <= taken < shard_queue._ASIDE + 64
    while (shard := queue.next_for(good, 2)) is not None:
        taken += len(shard.items) if shard.doubted is None else 0
    assert queue.is_empty
    assert taken == 5000


def test_a_failure_that_is_put_aside_is_tried_again_after_all_else() -> None:
    """By the one that failed it where it is the only judge, and what it then says is believed."""
    queue, worker = ShardQueue(iter(items(2)), 2, 1), a_worker(1)
    first = queue.next_for(worker, 1)
    assert first is not None
    assert queue.believed(first, worker, failures(first)) == []
    second = queue.next_for(worker, 1, is_sole_judge=True)
    assert second is not None
    assert second.items == tuple(items(2)[1:])
    assert queue.next_for(worker, 1) is None
    again = queue.next_for(worker, 1, is_sole_judge=True)
    assert again is not None
    assert again.items == first.items
    assert queue.believed(again, worker, failures(again)) == list(failures(first))


def test_a_worker_judges_itself_only_where_no_other_can_be_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while another opens or was just there; one that hangs, or dies as it starts, is not expected."""
    pool = WorkerPool(cast("Offer", None), None, alone_since=0.0)
    alone, other = PooledWorker("a", "", "ready"), PooledWorker("b", "", "ready", came=1000.0)
    now = 1000.0
    monkeypatch.setattr(dask_pool.time, "monotonic", lambda: now)
    pool.workers["a"] = alone
    assert pool.has_sole_judge
    pool.alone_since = 990.0
    assert not pool.has_sole_judge, "one that was there may be back"
    pool.alone_since, pool.workers["b"] = 0.0, other
    states: tuple[State, ...] = ("ready", "asked", "opening", "refused")
    for state in states:
        other.state = state
        assert pool.has_sole_judge == (state == "refused")
    other.state = "opening"
    pool.stillborn = 3
    assert pool.has_sole_judge, "its nanny starts it again and again"
    pool.stillborn, now = 0, 2000.0
    assert pool.has_sole_judge, "it hangs"
