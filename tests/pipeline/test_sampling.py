"""Drawing: how often each kind and class is drawn, and that nothing repeats before all have been seen."""

import pickle
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sample_index import PLACE, SampleIndex
from pipeline.samples import Kind, Sample
from pipeline.sampling import CropSampler, Draw
from storage.errors import SettingsError
from storage.layouts import LabelFile
from storage.schema import ClassSchema

SHARES = st.floats(0, 1)


def fake_index(counts: Sequence[Sequence[int]], kinds: Sequence[Kind]) -> SampleIndex:
    """An index of samples that are not on disk, each of one tile: row and column of a place are sample and class."""
    label = LabelFile(Path("none.png"), "class")
    samples = tuple(Sample(str(i), Path("none.png"), label, kind) for i, kind in enumerate(kinds))
    places = [(i, c, i, c, pixels) for i, row in enumerate(counts) for c, pixels in enumerate(row) if pixels]
    return SampleIndex(samples, np.array(counts, np.int64), np.array(places, PLACE), ("",) * len(kinds), "")


def make_sampler(index: SampleIndex, **options: Any) -> CropSampler:
    """A sampler of an index, half by class, half fine; options replace that."""
    names = [{"name": f"class{i}"} for i in range(index.counts.shape[1])]
    schema = ClassSchema.from_dict({"classes": names}, "numbered")
    defaults = {"class_uniform": 0.5, "fine_share": 0.5, "boost_classes": None, "seed": 0}
    return CropSampler(index, schema, **(defaults | options))


def draws_of(sampler: CropSampler, epochs: int) -> list[Draw]:
    """All draws of the first epochs."""
    return [draw for number in range(epochs) for draw in sampler.epoch(number)]


def test_half_of_the_draws_are_by_class() -> None:
    """Half of the draws choose a class, each exactly as often, from samples that contain it, at one of its places."""
    index = fake_index([[9, 1, 0], [9, 0, 0], [9, 0, 0], [0, 0, 0]], ["fine"] * 4)
    sampler = make_sampler(index, epoch_crops=40)
    draws = draws_of(sampler, 1)
    assert Counter(d.class_index for d in draws) == {None: 20, 0: 10, 1: 10}
    assert {d.sample for d in draws if d.class_index == 1} == {0}
    assert {d.sample for d in draws} == {0, 1, 2}, "a sample without labels is never drawn"
    assert all(d.anchor == (None if d.class_index is None else (d.sample, d.class_index)) for d in draws)


@settings(deadline=None)
@given(crops=st.integers(1, 12), class_uniform=SHARES, fine_share=SHARES, seed=st.integers(0, 9))
def test_rounding_never_adds_up(crops: int, class_uniform: float, fine_share: float, seed: int) -> None:
    """After any number of epochs, however short, each share is met to within a crop or two, and no class starves."""
    index = fake_index([[1, 1, 1]] * 3 + [[1, 1, 1]] * 4, ["fine"] * 3 + ["auto"] * 4)
    sampler = make_sampler(index, class_uniform=class_uniform, fine_share=fine_share, seed=seed, epoch_crops=crops)
    draws: list[Draw] = []
    for number in range(8):
        epoch = sampler.epoch(number)
        assert len(epoch) == crops
        draws += epoch
        by_class = Counter(d.class_index for d in draws)
        whole = by_class.pop(None, 0)
        assert abs(len(draws) - whole - class_uniform * len(draws)) <= 0.5 + 1e-9
        times = [by_class[c] for c in range(3)]
        assert max(times) - min(times) <= 1
        fine_whole = sum(d.sample < 3 for d in draws if d.class_index is None)
        assert abs(fine_whole - fine_share * whole) <= 0.5 + 1e-9
        for c in range(3):
            fine = sum(d.sample < 3 for d in draws if d.class_index == c)
            assert abs(fine - fine_share * by_class[c]) < 1


@settings(deadline=None)
@given(crops=st.integers(1, 12), class_uniform=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 9))
def test_nothing_repeats_before_all_are_seen(crops: int, class_uniform: float, seed: int) -> None:
    """In any epoch length, whole images and the places of a class are each drawn almost equally often."""
    index = fake_index([[1, 1]] * 5 + [[1, 0]] * 7, ["fine"] * 5 + ["auto"] * 7)
    draws = draws_of(make_sampler(index, class_uniform=class_uniform, seed=seed, epoch_crops=crops), 9)
    for wanted in (None, 0, 1):
        for pool in (range(5), range(5, 5 if wanted == 1 else 12)):
            seen = Counter(d.sample for d in draws if d.class_index == wanted and d.sample in pool)
            times = [seen[i] for i in pool]
            assert not times or max(times) - min(times) <= 1


def test_draw_depends_on_seed_and_number_alone() -> None:
    """The same number gives the same draw in any order and in a copy sent to another process; other seeds, others."""
    index = fake_index([[1, 1]] * 6 + [[1, 1]] * 6, ["fine"] * 6 + ["auto"] * 6)
    sampler = make_sampler(index)
    forwards = [sampler.draw(n) for n in range(30)]
    copy = pickle.loads(pickle.dumps(sampler))  # noqa: S301 - what was dumped a moment ago
    assert [copy.draw(n) for n in reversed(range(30))] == forwards[::-1]
    assert [make_sampler(index).draw(29)] == forwards[29:]
    assert [make_sampler(index, seed=1).draw(n) for n in range(30)] != forwards


def test_epochs_are_shuffled_each_in_another_order() -> None:
    """Neither are draws by class first, nor is one epoch like another."""
    sampler = make_sampler(fake_index([[1, 1]] * 8, ["fine"] * 8), epoch_crops=40)
    one, two = sampler.epoch(0), sampler.epoch(1)
    assert one != two
    by_class = [d.class_index is not None for d in one]
    assert sum(a != b for a, b in pairwise(by_class)) > 5


def test_epoch_is_as_long_as_there_are_fine_samples() -> None:
    """Other samples do not make an epoch longer, nor do fine ones without a label; without fine ones all count."""
    counts = [[1], [0], [1], [1], [1]]
    assert make_sampler(fake_index(counts, ["fine", "fine", "reviewed", "auto", "auto"])).epoch_crops == 2
    assert make_sampler(fake_index(counts, ["auto", "coarse", "auto", "auto", "auto"])).epoch_crops == 4


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_fine_share_is_kept(share: float) -> None:
    """The share of the draws from fine samples is as asked, whatever their number, of whole images and by class."""
    index = fake_index([[1, 1]] + [[1, 1]] * 9, ["fine"] + ["auto"] * 5 + ["coarse"] * 4)
    draws = draws_of(make_sampler(index, fine_share=share, epoch_crops=16), 10)
    assert np.mean([d.sample == 0 for d in draws]) == pytest.approx(share)


def test_class_of_one_kind_alone_is_drawn_from_it_unless_that_is_left_out() -> None:
    """A class that only auto labels have is drawn from them, but not where every draw is to be fine."""
    index = fake_index([[1, 0], [1, 1]], ["fine", "auto"])
    sampler = make_sampler(index, fine_share=0.9, epoch_crops=20)
    assert {d.sample for d in draws_of(sampler, 1) if d.class_index == 1} == {1}
    assert sampler.absent == ()
    sampler = make_sampler(index, fine_share=1.0, epoch_crops=20)
    assert {d.sample for d in draws_of(sampler, 3)} == {0}
    assert sampler.absent == ("class1",)


@pytest.mark.parametrize("kinds", [["fine", "reviewed"], ["auto", "coarse"]])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_sort_of_samples_is_drawn_whatever_the_share(kinds: list[Kind], share: float) -> None:
    """Where there are only fine samples, or none, the share of the fine ones does not matter."""
    sampler = make_sampler(fake_index([[1], [1]], kinds), fine_share=share)
    assert {d.sample for d in draws_of(sampler, 10)} == {0, 1}


def test_boosted_classes_are_drawn_from_all_labels_by_their_places() -> None:
    """A boosted class comes from every kind by its number of places; others come from fine labels, or not at all."""
    index = fake_index([[1, 1, 0, 0]] + [[1, 1, 1, 1]] * 3, ["fine"] + ["auto"] * 3)
    sampler = make_sampler(index, class_uniform=1.0, boost_classes=("class1", "class2"), epoch_crops=24)
    draws = draws_of(sampler, 1)
    assert Counter(d.class_index for d in draws) == {0: 8, 1: 8, 2: 8}
    assert Counter(d.sample for d in draws if d.class_index == 1) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert {d.sample for d in draws if d.class_index == 0} == {0}
    assert {d.sample for d in draws if d.class_index == 2} == {1, 2, 3}
    assert sampler.absent == ("class3",)


def test_boost_leaves_whole_images_to_the_fine_share() -> None:
    """With a fine share of 1, whole images are fine, and boosted classes still come from other labels."""
    index = fake_index([[1, 1], [1, 1]], ["fine", "auto"])
    draws = draws_of(make_sampler(index, fine_share=1.0, boost_classes=("class1",), epoch_crops=16), 1)
    assert {(d.class_index, d.sample) for d in draws} == {(None, 0), (0, 0), (1, 0), (1, 1)}


def test_draws_are_of_whole_images_where_no_class_may_be_drawn() -> None:
    """Where no label may be drawn from by class, whole images take the place."""
    sampler = make_sampler(fake_index([[1], [1]], ["auto", "auto"]), boost_classes=(), epoch_crops=10)
    assert {d.class_index for d in draws_of(sampler, 1)} == {None}
    assert sampler.absent == ("class0",)


def test_unknown_boost_class_is_refused_with_near_names() -> None:
    """A misspelt class is an error that offers the right one; one like no other lists all."""
    index = fake_index([[1, 1]], ["fine"])
    with pytest.raises(SettingsError, match=r"'clas1' is no class of 'numbered': did you mean class1"):
        make_sampler(index, boost_classes=("clas1",))
    with pytest.raises(SettingsError, match="expected some of class0, class1"):
        make_sampler(index, boost_classes=("zebra",))


def test_epoch_of_nothing_is_refused() -> None:
    """An epoch has a crop at least."""
    with pytest.raises(SettingsError, match="0 crops, expected at least 1"):
        make_sampler(fake_index([[1]], ["fine"]), epoch_crops=0)


@pytest.mark.parametrize("boost", [None, ("class1",)])
def test_expected_mix_is_what_is_drawn(boost: tuple[str, ...] | None) -> None:
    """The expected share of each kind adds up to 1 and is what many epochs give."""
    kinds: list[Kind] = ["fine", "fine", "reviewed", "auto", "auto", "coarse"]
    index = fake_index([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 1, 0]], kinds)
    sampler = make_sampler(index, fine_share=0.7, boost_classes=boost, epoch_crops=50)
    mix = sampler.expected_mix()
    drawn = Counter(kinds[d.sample] for d in draws_of(sampler, 40))
    assert sum(mix.values()) == pytest.approx(1)
    assert mix == pytest.approx({kind: drawn[kind] / 2000 for kind in ("fine", "coarse", "auto", "reviewed")}, abs=0.01)


def test_partner_is_another_auto_draw(rng: np.random.Generator) -> None:
    """Partners are auto draws of the same epoch from other samples; all of them come up."""
    index = fake_index([[1]] * 3 + [[1]] * 4, ["fine"] * 3 + ["auto"] * 4)
    sampler = make_sampler(index, epoch_crops=30)
    number = next(n for n in range(30, 60) if sampler.draw(n).sample == 4)
    partners = [sampler.partner(number, sampler.draw(number), rng) for _ in range(100)]
    assert {p.sample for p in partners} == {3, 5, 6}
    assert set(partners) <= set(sampler.epoch(1))


def test_partner_of_the_only_auto_sample_is_itself(rng: np.random.Generator) -> None:
    """Where there is no other auto sample, a crop is mixed with another piece of its own."""
    sampler = make_sampler(fake_index([[1], [1]], ["fine", "auto"]), epoch_crops=8)
    number = next(n for n in range(8) if sampler.draw(n).sample == 1)
    assert sampler.partner(number, sampler.draw(number), rng).sample == 1
