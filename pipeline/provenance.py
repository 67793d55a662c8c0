"""What decides the labels of a run, and what each label says of it.

It computes nothing of either; the settings' digest is what a run and its labels are known by.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pipeline.settings import LabelSettings, settings_digest
from storage.errors import SettingsError
from storage.run_form import source_id_settings
from storage.schema import ClassSchema
from teacher import Teacher
from teacher.fusion import scales_of
from teacher.networks.prediction import Fusion

DECISION_RULE = 1
"""Version of the rule that turns scores into labels; raised when the same settings would give other pixels."""


def decisive_settings(settings: LabelSettings, teacher: Teacher) -> dict[str, object]:
    """What decides the labels' values, as plain values: no paths, no device, no batch.

    What is left at its default and came to be later is left out, so that older runs are gone on with.
    """
    decisive: dict[str, object] = {
        "teacher": teacher.digest,
        "network": teacher.name,
        "classes": list(teacher.schema.names),
        **decisive_scales(teacher, settings.scales, settings.fusion),
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


def decisive_scales(teacher: Teacher, scales: Sequence[float], fusion: Fusion | None) -> dict[str, object]:
    """The scales at which a teacher predicts, and how they are fused where that is not its own way.

    Args:
        teacher: that predicts.
        scales: that were asked for.
        fusion: that was asked for; None: the teacher's own.
    """
    how = teacher.fusion(fusion)
    used = scales_of(how, scales)
    decisive: dict[str, object] = {"scales": sorted(used)}
    return decisive | {"fusion": how} if len(used) > 1 and how != teacher.predictor.fusion else decisive


def scales_with_attention(settings: LabelSettings, teacher: Teacher) -> tuple[float, ...]:
    """The scales of which attention maps are saved, ascending; none where none are.

    Raises:
        SettingsError: they are to be saved, and scales are not fused by an attention, or by those of several teachers.
    """
    fusion = teacher.fusion(settings.fusion)
    scales = tuple(sorted(teacher.predictor.attention_scales)) or scales_of(fusion, settings.scales)[::-1]
    if settings.save_attention and not teacher.predictor.tells_scales:
        raise SettingsError(
            f"save_attention is for one teacher, got {teacher.name}, of which each fuses its scales by itself: leave "
            f"it out, or take one of them"
        )
    if settings.save_attention and (fusion not in ("hierarchical", "explicit") or len(scales) < 2):
        raise SettingsError(
            f"save_attention is for several scales that are fused by an attention, got the fusion {fusion} "
            f"of {len(scales)}: leave it out, or take such a teacher and more scales"
        )
    return scales if settings.save_attention else ()


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
