"""What `report` is asked for: a run, what its labels are compared with, and how large the report may get."""

from pathlib import Path

from pydantic import Field

from pipeline.settings import Settings
from storage.layouts import Layout
from storage.schema import Ids
from storage.workspace import Workspace


class ReportSettings(Settings):
    """What `report` does."""

    run: Path
    """A run of `label`, `rethreshold`, `gather` or `merge`."""
    truth: Path | None = None
    """Label folder of a ground truth of some of its images."""
    coarse: Path | None = None
    """Label folder of humans' coarse labels; None: of a run of `merge` those that were merged."""
    merged: Path | None = None
    """A run of `merge` whose automatic labels are this run's."""
    reviewed: Path | None = None
    """Labels that people have corrected, a run or a folder: their images are marked."""
    images: Path | None = None
    """Folder of the images; None: the one in the run's own settings."""
    layout: Layout = "folder"
    """Of the folders that are named here."""
    ids: Ids | None = None
    """What the values of the label folders are."""
    thumb_size: int = Field(320, ge=32, le=2048)
    """Pixels of the longer side of a thumbnail."""
    thumb_bytes: int = Field(200_000_000, ge=0)
    """Bytes that all files of thumbnails may take together."""
    workers: int | None = Field(None, ge=1, le=256)
    """Threads; None: one a processor."""
    out: Path | None = None
    """Folder of the report; None: beside the run, with `-report` behind its name."""

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        if self.out is not None:
            return self.out
        # within the run it would count against its budget, and be a stray to `verify`
        root = (Workspace.holding(self.run) or Workspace(self.run)).root.resolve()
        return root.with_name(f"{root.name}-report")
