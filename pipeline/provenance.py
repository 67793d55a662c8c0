"""What decides the labels of a run, and what each label says of it.

It computes nothing of either; the settings' digest is what a run and its labels are known by.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pipeline.settings import LabelSettings, settings_digest
from storage.run_form import source_id_settings
from storage.schema import ClassSchema
from teacher import Teacher

DECISION_RULE = 1
"""Version of the rule that turns scores into labels; raised when the same settings would give other pixels."""


def decisive_settings(settings: LabelSettings, teacher: Teacher) -> dict[str, object]:
    """What decides the labels' values, as plain values: no paths, no device, no batch.

    What is left at its default and came to be later is left out, so that older runs are gone on with.
    """
    decisive: dict[str, object] = {
        "teacher": teacher.digest,
        "network": teacher.spec.network,
        "classes": list(teacher.schema.names),
        "scales": list(settings.scales),
        "threshold": settings.threshold,
        "flip": settings.flip,
        "precision": settings.precision,
        "decision_rule": DECISION_RULE,
    }
    if settings.class_thresholds:
        decisive["class_thresholds"] = dict(settings.class_thresholds)
    if settings.temperature != 1:
        decisive["temperature"] = settings.temperature
    if settings.min_component > 1:
        decisive["min_component"] = settings.min_component
    if settings.ids == "source":
        decisive |= source_id_settings(teacher.schema)
    return decisive


def label_provenance(decisive: Mapping[str, Any], schema: ClassSchema) -> dict[str, str | float]:
    """What each label of a run says that it was made with.

    Args:
        decisive: the run's settings that decide the labels' values.
        schema: its classes.
    """
    more: dict[str, str | float] = {}
    if own := decisive.get("class_thresholds"):
        more["class_thresholds"] = " ".join(f"{name}={value:g}" for name, value in sorted(own.items()))
    more |= {name: decisive[name] for name in ("min_component", "temperature") if name in decisive}
    if "written_ids" in decisive:
        more["ids"] = "source"
    return {
        "settings": settings_digest(decisive),
        "teacher": decisive["teacher"],
        "classes": schema.digest,
        "threshold": decisive["threshold"],
        "version": version("autocoarse"),
        **more,
    }
