"""Thresholds from a calibration: taken only for the labels that it speaks of, and kept beside what they made.

What a calibration is, and how its thresholds are chosen, is in `calibration_file` and `threshold_choice`.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.calibration_file import Calibration, read_calibration
from pipeline.settings import LabelSettings, settings_difference
from storage.errors import MissingFileError, SettingsError
from storage.object_io import find_file, read_file, remove_file
from storage.workspace import Workspace

_DECISIVE = ("teacher", "classes", "scales", "flip", "precision", "decision_rule", "temperature")
"""What a class and its confidence depend on, as in the settings in a run's ledger."""


def with_thresholds(
    settings: LabelSettings,
    calibration: Calibration,
    decisive: Mapping[str, object],
    *,
    brings_temperature: bool,
) -> LabelSettings:
    """Put a calibration's thresholds in the place of its file.

    Args:
        settings: of a run.
        calibration: the one that they name.
        decisive: what decides the run's labels, as in its ledger.
        brings_temperature: whether the calibration's temperature is taken where the settings have none of their own;
            else the confidence is there already, and must be of the same.

    Raises:
        SettingsError: it was made with another teacher, or other settings; the message shows the difference.
    """
    calibrated, asked = (_confidence_of(one) for one in (calibration.measured, decisive))
    if brings_temperature and settings.temperature == 1:
        asked["temperature"] = calibration.temperature
    if difference := settings_difference(calibrated, asked):
        raise SettingsError(
            f"{calibration.where} is of other confidences than those of the run (calibration -> run):\n{difference}\n"
            f"calibrate with the run's teacher and settings, or label with those of the calibration"
        )
    return settings.model_copy(
        update={
            "thresholds": None,
            "temperature": calibration.temperature,
            "threshold": calibration.rule.default_threshold,
            "class_thresholds": calibration.thresholds,
        }
    )


def _confidence_of(settings: Mapping[str, Any]) -> dict[str, object]:
    return {"temperature": 1.0} | {name: settings[name] for name in _DECISIVE if name in settings}


def keep_calibration(workspace: Workspace, settings: LabelSettings, calibration: Calibration | None) -> None:
    """Lay a calibration beside the labels that are made by it, and take one away that they are not made by.

    Args:
        workspace: of a run, which holds it.
        settings: of the run, with its thresholds.
        calibration: that the thresholds are from; None: from no calibration, or from one that lies there already.

    Raises:
        BudgetError, DiskFullError, WorkspaceError: it cannot be written.
    """
    path = workspace.calibration
    if calibration is None:
        if find_file(path) is not None and kept_calibration(workspace, settings) is None:
            remove_file(path)
        return
    content = calibration.to_json()
    if find_file(path) is None or read_file(path) != content:
        workspace.publish(path, content)


def kept_calibration(workspace: Workspace, settings: LabelSettings) -> Calibration | None:
    """The calibration that a run's thresholds are from; None where they are from none, or it cannot be read.

    Args:
        workspace: of the run.
        settings: of the run, or other ones: then it is only given where their thresholds are the same.
    """
    try:
        found = read_calibration(workspace.calibration)
    except (MissingFileError, SettingsError):
        return None
    return found if found.thresholds == settings.class_thresholds else None
