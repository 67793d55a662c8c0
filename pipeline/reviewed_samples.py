"""Reviewed labels among samples: each stands instead of whatever automatic or coarse label its image has.

How reviewed labels come to be is in `review_import`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.samples import Kind, Sample, collect_samples
from storage.errors import LayoutError, SettingsError
from storage.layouts import Layout
from storage.ledger import Ledger
from storage.schema import ClassSchema, Ids
from storage.workspace import Workspace

KIND: Kind = "reviewed"
"""What the ledger of a run of reviewed labels says in its settings, and each label of itself."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Overridden:
    """Samples of which some have a reviewed label now."""

    samples: tuple[Sample, ...]
    """Those that stay, in their order, and then the reviewed ones."""
    instead: int
    """Reviewed labels that stand instead of another."""
    added: int
    """Reviewed labels of images that had none."""

    @property
    def message(self) -> str:
        """What was done, for those who wait."""
        return (
            f"reviewed labels: {self.instead} instead of automatic or coarse ones, {self.added} of images that had none"
        )


def override(
    samples: Sequence[Sample],
    images: Path,
    reviewed: Path,
    layout: Layout,
    ids: Ids | None,
    schema: ClassSchema,
) -> Overridden:
    """Let reviewed labels stand instead of the automatic and coarse ones of the same images.

    Args:
        samples: of any kinds; fine ones stay whatever is reviewed.
        images: folder of the images that were reviewed.
        reviewed: what `import-review --out` made, or a label folder.
        layout: how the images lie on disk.
        ids: what the values of a label folder are.
        schema: the classes.

    Raises:
        SettingsError: the labels are a RUN's that nobody has reviewed.
        LayoutError: a reviewed label has no image: it would silently teach nothing.
        MissingFileError, SchemaError, WorkspaceError: as `collect_samples`.
    """
    if (run := Workspace.holding(reviewed)) is not None:
        with Ledger(run.ledger, read_only=True) as ledger:
            if (ledger.settings or {}).get("kind") != KIND:
                raise SettingsError(
                    f"{reviewed} is a RUN whose labels nobody has reviewed; name what `import-review --out` made"
                )
    collection = collect_samples(images, reviewed, KIND, layout, ids, partial=True, schema=schema)
    if lost := collection.labels_without_image:
        named = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        raise LayoutError(
            f"{len(lost)} reviewed labels of {reviewed} have no image in {images}: {named}; name the folder of images "
            f"that were reviewed, or take these labels out"
        )
    found = {sample.image.resolve() for sample in collection.samples}
    stays = [sample for sample in samples if sample.kind == "fine" or sample.image.resolve() not in found]
    gone = found & {sample.image.resolve() for sample in samples if sample.kind != "fine"}
    return Overridden((*stays, *collection.samples), len(gone), len(found) - len(gone))
