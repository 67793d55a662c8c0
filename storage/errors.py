"""The errors autocoarse raises on purpose: one base, each kind also the builtin a caller would expect.

No class here defines a constructor, so that every error survives pickling between processes with its message.
"""


class AutocoarseError(Exception):
    """Base of every error that autocoarse raises on purpose."""


class SettingsError(AutocoarseError, ValueError):
    """What was asked for contradicts itself or is out of range."""


class SchemaError(AutocoarseError, ValueError):
    """A class schema is unknown or malformed."""


class LabelError(AutocoarseError, ValueError):
    """A label file or label map holds something that is no class index, or is not a label at all."""


class ImageError(AutocoarseError, ValueError):
    """An image cannot be read, or is too large or too small to be labelled."""


class LayoutError(AutocoarseError, ValueError):
    """A data set on disk is not what its layout says it is."""


class CheckpointError(AutocoarseError, ValueError):
    """A checkpoint does not fit the network, or is not a checkpoint."""


class ShapeError(AutocoarseError, ValueError):
    """Two arrays that must agree in shape do not."""


class MissingFileError(AutocoarseError, FileNotFoundError):
    """A file that was named does not exist."""


class TrainingError(AutocoarseError, ArithmeticError):
    """Training cannot go on: the loss is no number any more."""


class WorkspaceError(AutocoarseError, OSError):
    """The output folder cannot be used: not writable, full, locked by another run, or escaped by a link."""


class BrokenLedgerError(WorkspaceError):
    """The ledger of a run is damaged or gone; its labels are as they were."""


class DiskFullError(WorkspaceError):
    """The disk, or a quota on it, is full; what was written before is whole."""


class BudgetError(AutocoarseError, OSError):
    """What is to be written would pass the budget that was given; what was written before is whole."""


class GateError(AutocoarseError, ValueError):
    """Labels are not as good as a gate asks for, or it is not known."""


class ForeignSettingsError(AutocoarseError, ValueError):
    """The output folder holds work made with other settings."""


class LeakError(AutocoarseError, ValueError):
    """A network was to be judged on images that it was trained on."""


class WorkerError(AutocoarseError, RuntimeError):
    """A process that works with others has died."""


def first_line(error: BaseException | None) -> str:
    """The first line of what another library's error says, for a message; its kind where it says nothing."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)
