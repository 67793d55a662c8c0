"""The saved states of a training run: the last few are there, none is torn, and the latest readable one is used."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training_state import TrainingFolder
from storage.errors import CheckpointError, DiskFullError, ForeignSettingsError, WorkspaceError

SETTINGS = {"steps": 9}


def state(step: int) -> dict[str, Any]:
    """A state of a few bytes."""
    return {"step": step, "network": torch.full((3,), float(step)), "settings": SETTINGS}


def names(folder: TrainingFolder) -> list[str]:
    """What lies in the folder of states."""
    return sorted(path.name for path in folder.states.iterdir())


def test_the_last_few_states_are_kept(tmp_path: Path) -> None:
    """As many states stay as are asked for, and the latest is loaded."""
    folder = TrainingFolder(tmp_path, keep=2)
    for step in (3, 6, 9, 10):
        folder.save_state(state(step))
    assert names(folder) == ["step-000000009.pt", "step-000000010.pt"]
    loaded, warnings = folder.load_state(SETTINGS)
    assert loaded is not None
    assert loaded["step"] == 10
    assert torch.equal(loaded["network"], torch.full((3,), 10.0))
    assert warnings == []


def test_another_batch_is_told_by_its_flags(tmp_path: Path) -> None:
    """Crops together are no flag of their own: the message names those whose product they are."""
    folder = TrainingFolder(tmp_path)
    folder.save_state(state(3) | {"settings": {"crops_together": 4}})
    with pytest.raises(ForeignSettingsError, match=r"\(--batch x --devices x --nodes\): 4 -> 3"):
        folder.load_state({"crops_together": 3})


def test_empty_folder_has_no_state(tmp_path: Path) -> None:
    """Where nothing was saved there is nothing to go on from, and nothing to warn of."""
    folder = TrainingFolder(tmp_path)
    assert folder.load_state(SETTINGS) == (None, [])
    assert not folder.has_state()


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_damaged_state_gives_way_to_the_one_before(tmp_path: Path, content: bytes | None) -> None:
    """A state that was cut off by a crash of the machine is named, and the one before is used."""
    folder = TrainingFolder(tmp_path)
    folder.save_state(state(3))
    folder.save_state(state(6))
    latest = folder.states / "step-000000006.pt"
    latest.write_bytes(latest.read_bytes()[:-200] if content is None else content)
    loaded, warnings = folder.load_state(SETTINGS)
    assert loaded is not None
    assert loaded["step"] == 3
    assert len(warnings) == 1
    assert str(latest) in warnings[0]
    folder.save_state(state(6))  # done again
    assert folder.load_state(SETTINGS)[1] == []


def test_only_damaged_states_are_one_clear_error(tmp_path: Path) -> None:
    """Where no state can be read, the message names them and says what to do."""
    folder = TrainingFolder(tmp_path)
    folder.save_state(state(3))
    (folder.states / "step-000000003.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"step-000000003\.pt cannot be read .*; remove .*states"):
        folder.load_state(SETTINGS)


def test_states_of_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    """The message has the setting, what it was and what it is."""
    folder = TrainingFolder(tmp_path)
    folder.save_state(state(3))
    with pytest.raises(ForeignSettingsError, match="steps: 9 -> 8"):
        folder.load_state({"steps": 8})


def test_a_state_of_an_earlier_version_says_what_was_not_a_setting_yet(tmp_path: Path) -> None:
    """The message has the value with which the run goes on, and that value is no difference."""
    folder = TrainingFolder(tmp_path)
    folder.save_state(state(3))
    with pytest.raises(ForeignSettingsError, match="precise_bn: 0 -> 200"):
        folder.load_state({**SETTINGS, "precise_bn": 200})
    assert folder.load_state(SETTINGS)[0] is not None


def test_full_disk_leaves_the_states_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the run ends with a message, and what was saved before is still there and whole."""
    folder = TrainingFolder(tmp_path, keep=1)
    folder.save_state(state(3))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WorkspaceError, match=r"No space left.*free some space"):
        folder.save_state(state(6))
    monkeypatch.undo()
    assert names(folder) == ["step-000000003.pt"]
    assert folder.load_state(SETTINGS)[0] is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_log_that_has_no_room_is_a_full_disk(tmp_path: Path) -> None:
    """The command ends as it does wherever else the disk is full."""
    folder = TrainingFolder(tmp_path)
    folder.log.symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=r"log\.jsonl: No space left"):
        folder.append_log({"step": 1})


def test_log_is_cut_back_to_a_step(tmp_path: Path) -> None:
    """What was logged after a step is forgotten, and so is a line that a crash cut off."""
    folder = TrainingFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append_log({"step": step})
    with folder.log.open("a") as file:
        file.write('{"step": 1, "lo')
    folder.rewind_log(2)
    assert folder.log.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    "content", ["", "torn {", "[]", '{"validated":' * 100_000], ids=["empty", "torn", "else", "deep"]
)
def test_damaged_metrics_are_as_none(tmp_path: Path, content: str) -> None:
    """What a run ended with is not known where its file is cut off, something else, or nested beyond reading."""
    folder = TrainingFolder(tmp_path)
    folder.metrics.write_text(content)
    assert folder.load_metrics() is None
