"""Labelling one shard: its items and no others are what the run is about, in every account of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.labelling import LabelRun, LabelSummary
from pipeline.rethresholding import RethresholdRun, RethresholdSettings
from pipeline.run_budget import Projection, count_ledger, project
from pipeline.settings import LabelSettings, read_label_settings
from pipeline.verification import Verification
from storage.budget import measure_bytes
from storage.errors import ForeignSettingsError, SettingsError, WorkspaceError
from storage.ledger import Ledger
from storage.shard import Shard

KEYS = [f"{'abc'[number % 3]}/{number}" for number in range(9)]
SHARDS = [Shard(number, 3) for number in (1, 2, 3)]


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> LabelSettings:
    """Nine images in three folders."""
    for number, key in enumerate(KEYS):
        make_image(tmp_path / f"images/{key}.png", (16, 24), number)
    return LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), scales=(1.0,), device="cpu", out=tmp_path / "run"
    )


def changed(settings: LabelSettings, **changes: object) -> LabelSettings:
    """Other settings, validated as those of a user are."""
    return LabelSettings.checked(**{**settings.model_dump(), **changes})


def label(settings: LabelSettings) -> LabelSummary:
    """Label to the end and return the counts."""
    with LabelRun(settings) as run:
        for _ in run:
            pass
        return run.summary


def labels(out: Path) -> dict[str, bytes]:
    """Content of all label files, by their path."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in (out / "labels").rglob("*") if p.is_file()}


def kinds(run: Path) -> dict[str, int]:
    """What verification finds, by kind."""
    with Verification(run, workers=1) as verification:
        for _ in verification:
            pass
        return dict(verification.summary.kinds)


def test_shards_are_disjoint_and_together_everything(settings: LabelSettings, tmp_path: Path) -> None:
    """Each run is of its shard's images alone; together they have the labels of one run of all, byte for byte."""
    whole = label(settings)
    parts: dict[str, bytes] = {}
    for shard in SHARDS:
        out = tmp_path / f"run-{shard.number}"
        summary = label(changed(settings, shard=str(shard), out=out))
        keys = [key for key in KEYS if shard.holds(key)]
        assert summary.total == summary.labelled == len(keys)
        assert sorted(labels(out)) == sorted(f"labels/{key}.png" for key in keys)
        assert not parts.keys() & labels(out).keys()
        parts |= labels(out)
    assert parts == labels(settings.out)
    assert whole.total == 9


def test_the_digest_is_that_of_the_whole_and_the_settings_say_the_shard(settings: LabelSettings) -> None:
    """A shard decides no pixel; settings.toml and the ledger record it, and the file is read as settings again."""
    with LabelRun(settings) as run:
        digest = run.digest
    with LabelRun(changed(settings, shard="2/3")) as run:
        assert run.digest == digest
    assert 'shard = "2/3"' in (settings.out / "settings.toml").read_text()
    assert read_label_settings(settings.out / "settings.toml").shard == Shard(2, 3)
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.shard == Shard(2, 3)


@pytest.mark.parametrize(("before", "now"), [("1/3", "2/3"), ("1/3", "1/4"), ("1/3", None), (None, "1/3")])
def test_a_run_of_another_shard_is_refused_with_the_difference(
    settings: LabelSettings, before: str | None, now: str | None
) -> None:
    """Two jobs with one --out would mix their items, and each would drop the other's failures."""
    label(changed(settings, shard=before))
    made = labels(settings.out)
    with pytest.raises(ForeignSettingsError, match=f"shard: {before or r'.none.'} -> {now or r'.none.'}"):
        label(changed(settings, shard=now))
    assert labels(settings.out) == made
    assert label(changed(settings, shard=before)).labelled == 0


def test_a_shard_of_which_nothing_became_anything_may_become_another(settings: LabelSettings) -> None:
    """As with other settings, a run that was stopped before its first image binds nobody; a failure does."""
    with LabelRun(changed(settings, shard="1/3")):
        pass
    with LabelRun(changed(settings, shard="2/3")):
        pass
    broken = next(key for key in KEYS if Shard(2, 3).holds(key))
    (settings.images / f"{broken}.png").write_bytes(b"no image")
    for key in KEYS:
        if key != broken:
            (settings.images / f"{key}.png").unlink()
    assert label(changed(settings, shard="2/3")).failed == 1
    with pytest.raises(ForeignSettingsError, match="shard: 2/3 -> 1/3"):
        label(changed(settings, shard="1/3"))


def test_other_shards_items_are_not_unfinished(settings: LabelSettings) -> None:
    """Of four images in the second shard one is labelled: three are left, to plan, projection and proof."""
    settings = changed(settings, shard="2/3")
    label(settings)
    own = [key for key in KEYS if Shard(2, 3).holds(key)]
    with Ledger(settings.out / "ledger.sqlite") as ledger:
        ledger.forget(own[1:])
    for key in own[1:]:
        (settings.out / f"labels/{key}.png").unlink()
    projection = project(settings.out, measure_bytes(settings.out), count_ledger(settings.out))
    assert isinstance(projection, Projection)
    assert (projection.done, projection.left) == (1, 3)
    assert kinds(settings.out) == {"unfinished": 3}
    with LabelRun(settings) as run:
        assert (run.plan.total, run.plan.done_count, run.plan.to_do_count) == (4, 1, 3)
        assert len(list(run)) == 3
    assert kinds(settings.out) == {}
    found = measure_bytes(settings.out)
    assert project(settings.out, found, count_ledger(settings.out)) == "every image is labelled"


def test_images_without_a_key_fail_in_one_shard(settings: LabelSettings, make_image: Callable[..., object]) -> None:
    """Two images of one name are two failed items of the shard that their label would be of, and of no other."""
    for suffix in ("png", "jpg"):
        make_image(settings.images / f"twin.{suffix}", (16, 24), 1)
    failed = {}
    for shard in SHARDS:
        out = settings.out.with_name(f"run-{shard.number}")
        failed[shard] = label(changed(settings, shard=str(shard), out=out)).failed
        assert kinds(out) == ({"refused": 2} if failed[shard] else {})
    assert failed == {shard: 2 * shard.holds("twin") for shard in SHARDS}


def test_failures_of_images_that_are_gone_are_dropped_from_their_shard_only(settings: LabelSettings) -> None:
    """A failed item stays until its image goes, as in a run of everything."""
    settings = changed(settings, shard="3/3")
    image = settings.images / "c/5.png"
    image.write_bytes(b"no image")
    assert label(settings).failed == 1
    assert label(settings).failed == 1
    assert kinds(settings.out) == {"failed": 1}
    image.unlink()
    assert label(settings).total == 2
    assert kinds(settings.out) == {}


def test_a_shard_without_images_is_done_at_once(settings: LabelSettings) -> None:
    """With more shards than images some are empty; that is no error, in any order of commands."""
    empty = next(shard for shard in (Shard(n, 40) for n in range(1, 41)) if not any(map(shard.holds, KEYS)))
    assert label(changed(settings, shard=str(empty))).total == 0
    assert kinds(settings.out) == {}


def test_another_threshold_of_a_shard_is_of_that_shard(settings: LabelSettings, tmp_path: Path) -> None:
    """What is made from a shard's kept confidence is verified as that shard, and gone on with as such."""
    settings = changed(settings, shard="1/3", keep="confidence")
    label(settings)
    again = tmp_path / "again"
    with RethresholdRun(RethresholdSettings(run=settings.out, threshold=0.8, out=again)) as run:
        assert len(list(run)) == 2
    assert kinds(again) == {}
    assert label(changed(settings, threshold=0.8, keep="none", out=again)).skipped == 2


def test_bad_shards_are_settings_errors(settings: LabelSettings, tmp_path: Path) -> None:
    """No shard, no such shard, labels among the images that other shards list, and settings that cannot be read."""
    with pytest.raises(SettingsError, match="shard 4 of 3: expected a number from 1 to 3"):
        changed(settings, shard="4/3")
    with pytest.raises(SettingsError, match="expected I/N"):
        changed(settings, shard="first")
    with pytest.raises(SettingsError, match="other shards would take its labels for images"):
        changed(settings, shard="1/3", out=settings.images / "auto")
    with pytest.raises(WorkspaceError, match="no settings of `label`"):
        read_label_settings(tmp_path / "settings.toml")


def test_damaged_shards_in_settings_are_told(settings: LabelSettings) -> None:
    """Verification and projection name a shard that is none, instead of taking all images for the run's."""
    settings = changed(settings, shard="1/3")
    label(settings)
    path = settings.out / "settings.toml"
    path.write_text(path.read_text().replace('"1/3"', '"9/3"'))
    assert kinds(settings.out) == {"undecodable": 1}
    reason = project(settings.out, measure_bytes(settings.out), count_ledger(settings.out))
    assert "expected a number from 1 to 3" in str(reason)
