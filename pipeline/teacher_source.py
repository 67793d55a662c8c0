"""Where a process gets the teacher from: the file, known by its hash, and how the teacher is to decide.

It is small and goes to every worker; the network itself is loaded there. torch is imported only then.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from pipeline.decider import Decider
from pipeline.decision_way import DecisionWay
from storage.errors import CheckpointError
from storage.object_io import file_digest
from storage.schema import ClassSchema

if TYPE_CHECKING:
    from pipeline.settings import LabelSettings
    from teacher import Teacher
    from teacher.precision import Precision


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
    file: Path | None
    """None: a teacher that is not of one file, or of another library, which each worker finds by its name."""
    file_sha256: str
    digest: str
    """Of the teacher itself."""
    schema: ClassSchema
    device: str
    precision: str
    compiled: bool
    way: DecisionWay

    @classmethod
    def of(cls, settings: "LabelSettings", teacher: "Teacher", way: DecisionWay) -> Self:
        """The source of a teacher that was loaded as the settings say."""
        from teacher.references import resolved

        file = _file_of(settings)
        return cls(
            name=None if settings.weights is None and file is not None else resolved(settings.teacher, Path.cwd()),
            file=None if file is None else file.absolute(),
            file_sha256="" if file is None else file_digest(file),
            digest=teacher.digest,
            schema=teacher.schema,
            device=settings.device,
            precision=settings.precision,
            compiled=settings.compiled,
            way=way,
        )

    def at(self, file: Path) -> Self:
        """The same source with its file elsewhere."""
        return replace(self, file=file)

    def load(self, limit: int | None = None) -> tuple[Decider, str]:
        """As `Source.load`; errors as `load_teacher`."""
        from pipeline.memory import return_weights
        from pipeline.teacher_decider import TeacherDecider
        from teacher import load_teacher

        name, weights = self.name or self.file, self.file if self.name is not None else None
        assert name is not None, "one of them is there"
        precision: Precision = self.precision  # type: ignore[assignment] # the settings have checked it
        return_weights()
        teacher = load_teacher(
            name, weights, schema=self.schema, device=self.device, precision=precision, compiled=self.compiled
        )
        if teacher.digest != self.digest:
            raise CheckpointError(f"{name} is another teacher than the one that the run was started with")
        return TeacherDecider(teacher, self.way, limit), teacher.device.type


def _file_of(settings: "LabelSettings") -> Path | None:
    """The one file that holds the teacher, where there is one."""
    from teacher.references import Reference

    if settings.weights is not None:
        return settings.weights
    path = Path(settings.teacher)
    return None if Reference.parse(settings.teacher) is not None or path.suffix == ".toml" else path
