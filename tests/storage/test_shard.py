"""Shards: each item in exactly one, by its key alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import SettingsError
from storage.layouts import Item, Listing
from storage.shard import Shard


@given(st.sets(st.text(min_size=1)), st.integers(1, 12))
def test_shards_partition_any_set_of_keys(keys: set[str], count: int) -> None:
    """Every key is in one shard and in no other, whatever else there is."""
    shards = [{key for key in keys if Shard(number, count).holds(key)} for number in range(1, count + 1)]
    assert set().union(*shards) == keys
    assert sum(map(len, shards)) == len(keys)
    assert all(Shard.of(key, count).holds(key) for key in keys)


@pytest.mark.parametrize("count", [2, 3, 8, 20])
def test_shards_of_a_thousand_keys_are_balanced(count: int) -> None:
    """Numbered names, as cameras give them, spread: no shard is off the mean by more than five standard deviations."""
    keys = [f"aachen/aachen_{number:06}_000019_leftImg8bit" for number in range(1000)]
    mean = len(keys) / count
    sizes = [sum(Shard(number, count).holds(key) for key in keys) for number in range(1, count + 1)]
    assert max(abs(size - mean) for size in sizes) < 5 * (mean * (1 - 1 / count)) ** 0.5


def test_membership_is_the_same_on_every_machine_and_for_ever() -> None:
    """Runs of one data set may be months and machines apart: the numbers are fixed here."""
    assert [Shard.of(key, 8).number for key in ("a/1", "a/2", "b/3", "straße/0")] == [7, 8, 1, 3]


def test_a_listing_is_split_with_what_it_refuses() -> None:
    """Images that share a key stay together, in the shard of that key; names that are no UTF-8 are somewhere, too."""
    items = tuple(Item(f"{number}", Path(f"{number}.png")) for number in range(20))
    problems = (("a/twin.png", "shared"), ("a/twin.jpg", "shared"), ("'b\\udcff.png'", "no UTF-8"))
    listing = Listing(items, problems)
    parts = [listing.of_shard(Shard(number, 3)) for number in (1, 2, 3)]
    assert sorted(item.key for part in parts for item in part.items) == sorted(item.key for item in items)
    assert sorted(problem for part in parts for problem in part.problems) == sorted(problems)
    twins = parts[Shard.of("a/twin", 3).number - 1]
    assert {"a/twin.png", "a/twin.jpg"} <= twins.keys
    assert listing.of_shard(None) is listing


@pytest.mark.parametrize(
    "text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "1.0/3", "a/b", "1 / 3", "\u0661/3", "1/9999999"]
)
def test_what_is_no_shard_is_refused(text: str) -> None:
    """The message says what was got and what is expected."""
    with pytest.raises(SettingsError, match="expected"):
        Shard.parse(text)


def test_a_shard_is_written_as_it_is_read() -> None:
    """I/N, in flags and in files."""
    assert str(Shard.parse("2/8")) == "2/8"
    assert Shard.parse("2/8") == Shard(2, 8)
