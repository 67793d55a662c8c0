"""Where a process gets the teacher from: the file, known by its hash, and how the teacher is to decide.

It is small and goes to every worker; the network itself is loaded there. torch is imported only then.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from pipeline.labeller import Decider
from storage.errors import CheckpointError
from storage.object_io import file_digest
from storage.schema import ClassSchema
from storage.soft_store import Keep

if TYPE_CHECKING:
    from pipeline.calibrate_settings import CalibrateSettings
    from pipeline.settings import LabelSettings
    from teacher import Teacher
    from teacher.inference import Precision


class Source(Protocol):
    """What a worker makes its decider of."""

    @property
    def file(self) -> Path | None:
        """The file that it is read from; None where there is none."""

    @property
    def file_sha256(self) -> str:
        """Hash of the file."""

    def at(self, file: Path) -> "Source":
        """The same source with its file elsewhere."""

    def load(self, limit: int | None = None) -> tuple[Decider, str]:
        """Load the teacher; gives what decides, and the kind of device that it is on.

        Args:
            limit: bytes that the process may take; None: nobody has said.

        Raises:
            AutocoarseError: it cannot be loaded here, as when the device is not there.
        """


@dataclass(frozen=True, slots=True)
class TeacherSource:
    """A teacher of autocoarse, and how it decides."""

    name: str | None
    """Of the network, where the file has public weights; None: the file is a checkpoint."""
    file: Path
    file_sha256: str
    digest: str
    """Of the teacher itself."""
    schema: ClassSchema
    device: str
    precision: str
    scales: tuple[float, ...]
    flip: bool
    thresholds: tuple[float, ...]
    """One for all classes, or one a class."""
    keep: Keep
    keep_steps: int
    compiled: bool
    temperature: float = 1.0

    @classmethod
    def of(
        cls, settings: "LabelSettings | CalibrateSettings", teacher: "Teacher", thresholds: tuple[float, ...]
    ) -> Self:
        """The source of a teacher that was loaded as the settings say."""
        file = Path(settings.teacher) if settings.weights is None else settings.weights
        return cls(
            name=None if settings.weights is None else settings.teacher,
            file=file.absolute(),
            file_sha256=file_digest(file),
            digest=teacher.digest,
            schema=teacher.schema,
            device=settings.device,
            precision=settings.precision,
            scales=settings.scales,
            flip=settings.flip,
            thresholds=thresholds,
            keep=settings.keep,
            keep_steps=settings.keep_steps,
            compiled=settings.compiled,
            temperature=settings.temperature,
        )

    def at(self, file: Path) -> Self:
        """The same source with its file elsewhere."""
        return replace(self, file=file)

    def load(self, limit: int | None = None) -> tuple[Decider, str]:
        """As `Source.load`; errors as `load_teacher`."""
        from pipeline.teacher_decider import TeacherDecider
        from teacher import load_teacher

        name, weights = (self.file, None) if self.name is None else (self.name, self.file)
        precision: Precision = self.precision  # type: ignore[assignment] # the settings have checked it
        teacher = load_teacher(
            name, weights, schema=self.schema, device=self.device, precision=precision, compiled=self.compiled
        )
        if teacher.digest != self.digest:
            raise CheckpointError(f"{self.file} holds another teacher than the one that the run was started with")
        return TeacherDecider(teacher, self, limit), teacher.device.type
