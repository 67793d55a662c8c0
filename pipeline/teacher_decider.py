"""A teacher at work for a run: it decides with the run's scales and thresholds, in the way that fits in memory."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from pipeline.cores import plan_here
from pipeline.decider import Image
from pipeline.decision_way import DecisionWay
from pipeline.fitting import Work, fit, memory_of, next_tile
from pipeline.machine import room_on
from pipeline.memory import keep_all_but_the_largest, return_freed_memory, trim_memory
from pipeline.settings import LabelSettings
from pipeline.step_down import Way
from storage.errors import ImageError
from teacher import Teacher
from teacher.decided import Decision
from teacher.decision import DecisionRule
from teacher.fusion import scales_of
from teacher.memory_plan import LabelMemory

_SURELY = 4096
"""Bytes a pixel of the largest scale, of which no network of the registry takes half: images that fit so are not worth
the seconds that measuring a network takes."""


def way_of(settings: LabelSettings, teacher: Teacher, thresholds: tuple[float, ...]) -> DecisionWay:
    """How a teacher decides in a run of `label`.

    Args:
        settings: of the run.
        teacher: of the run.
        thresholds: of the settings, one for all classes, or one a class.
    """
    fusion = teacher.fusion(settings.fusion)
    return DecisionWay(
        scales_of(fusion, settings.scales)[::-1],
        fusion,
        settings.flip,
        thresholds,
        settings.keep,
        settings.keep_steps,
        settings.temperature,
        settings.save_attention,
    )


@dataclass(slots=True)
class TeacherDecider:
    """A teacher with the scales and thresholds of a run; satisfies `TilingDecider` and `ForesightedDecider`.

    Args:
        teacher: that decides.
        how: it does.
        limit: bytes that this process may take, on the CPU; None: as many as the machine has.
    """

    teacher: Teacher
    how: DecisionWay
    limit: int | None = None
    _memory: LabelMemory | None = field(default=None, init=False, repr=False)
    _rule: DecisionRule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        how = self.how
        self._rule = DecisionRule(how.thresholds, how.keep, how.keep_steps, how.temperature)
        torch.set_num_threads(plan_here(on_cuda=self.teacher.device.type == "cuda").network)
        if self.teacher.device.type == "cpu":
            trim_memory()  # what the loading of the network has left
            # a dask worker's own setting gives every tensor back to the system, which took more than half of its time
            keep_all_but_the_largest()

    @property
    def problems(self) -> tuple[str, ...]:
        """As `Teacher.problems`."""
        return self.teacher.problems

    @property
    def looks_ahead(self) -> bool:
        """As `Teacher.looks_ahead`."""
        return self.teacher.looks_ahead

    def expect(self, images: Sequence[Image]) -> None:
        """As `Teacher.expect`."""
        self.teacher.expect(images)

    def decide(self, images: Sequence[Image]) -> list[Decision]:
        """Label images of one size as one batch.

        Raises:
            SettingsError: as `Teacher.decide`.
            ImageError: as `Teacher.decide`; or what is predicted of one of them is no number.
        """
        return self._decide(images)

    def decide_in_tiles(self, images: Sequence[Image], tile: int) -> list[Decision]:
        """As `decide`, with no more than a tile on its way through the network."""
        return self._decide(images, tile)

    def _decide(self, images: Sequence[Image], tile: int | None = None) -> list[Decision]:
        how = self.how
        decisions = self.teacher.decide(
            images, how.scales, self._rule, flip=how.flip, tile=tile, fusion=how.fusion, attention=how.attention
        )
        if not all(decision.finite for decision in decisions):  # a night of labels that ignore all would look fine
            raise ImageError(
                "the teacher predicts NaN or infinity: with precision fp16 numbers above 65504 become infinite, choose "
                "bf16 or fp32; with these, its weights or its code are at fault"
            )
        return decisions

    def first_way(self, size: tuple[int, int], batch: int) -> Way:
        """As `TilingDecider.first_way`, by the measured memory of the network where it might not fit."""
        how = self.how
        if self.teacher.predictor.planned is None:
            return Way(batch)
        room = room_on(self.teacher.device)
        if self.limit is not None and self.teacher.device.type == "cpu":
            room = min(room, self.limit)
        largest = max(*how.scales, *self.teacher.predictor.attention_scales, 1.0)
        if batch * size[0] * size[1] * largest**2 * _SURELY <= room:
            return Way(batch)
        if self._memory is None:
            self._memory = memory_of(self.teacher)
        try:
            found = fit(self._memory, size, Work(how.scales, how.flip, how.keep), room, batch)
        except ImageError:  # too small for a scale: that is told when it is labelled
            return Way(batch)
        if found.tight:
            return_freed_memory()
        return found.way

    def next_tile(self, size: tuple[int, int], tile: int | None) -> int | None:
        """As `TilingDecider.next_tile`."""
        return next_tile(size, self.how.scales, tile) if self.teacher.predictor.can_tile else None

    def free_memory(self) -> None:
        """Give back what an attempt that ran out of memory has left."""
        if self.teacher.device.type == "cpu":
            self.teacher.release_memory()
            return_freed_memory()
            trim_memory()
            return
        # an error of a batch that the device is still at shows here, too; it is told by who waits for that batch
        with suppress(RuntimeError):
            self.teacher.release_memory()
            torch.cuda.empty_cache()
