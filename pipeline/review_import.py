"""Taking corrected labels back: all are checked before any is written, and they are kept in a run of their own.

A run of reviewed labels is like any other; several imports add to it. How one image is checked, `review_check` says.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.export_manifest import Manifest, read_manifest
from pipeline.review_check import ReviewChecker, Reviewed
from pipeline.review_formats import read_annotations
from pipeline.review_regions import FormatName
from pipeline.reviewed_samples import KIND
from pipeline.run_folder import claim, opened_run, reason_to_keep, record_plan, refuse_foreign
from pipeline.settings import Settings, settings_digest
from storage.agreement import label_agrees
from storage.errors import LabelError, SettingsError
from storage.ledger import Entry, Ledger
from storage.object_io import file_info
from storage.schema import ClassSchema
from storage.workspace import Workspace

REVIEW_RULE = 1
"""Version of the rule that turns regions into labels; raised when the same file would give other pixels."""

_NAMED = 20
_GROUP = 50


class ImportReviewSettings(Settings):
    """What `import-review` does."""

    file: Path
    """What the tool gave back: a file, a zip or a folder."""
    export: Path
    """Folder that `export` made."""
    format: FormatName | None = None
    """Of what the tool gave back; None: the one that was handed out."""
    changed_only: bool = False
    """Take only the images whose label is not as it was handed out."""
    replace: bool = False
    """Replace labels of an earlier import by others."""
    skip_bad: bool = False
    """Take the good images also where others are wrong."""
    out: Path
    """Run of the reviewed labels."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What came back."""

    imported: int
    """Labels written by this import."""
    replaced: int
    """Of these, those that took another's place."""
    known: int
    """Not written: an earlier import brought the same label."""
    unchanged: int
    """Of all good images, those whose label is as it was handed out."""
    left_out: int
    """Of the unchanged ones, those that were left out, as `changed_only` has it."""
    changed_pixels: int
    """Over all good images."""
    pixels: int
    """Of all good images."""
    claimed_again: int
    """Pixels that several classes claimed."""
    missing: int
    """Images of the export of which no good label came back."""
    problems: tuple[str, ...]
    """What was wrong, one an image."""
    total: int
    """Labels that the run has now."""


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is."""

    done: int
    total: int
    """Images of the export; not all need come back."""
    result: ImportResult | None = None
    """With the last one."""


def import_review(settings: ImportReviewSettings) -> Iterator[ImportProgress]:
    """Check what a tool gave back, and write it into a run of reviewed labels: all of it, or nothing.

    Where several regions claim a pixel, the one has it that the tool shows on top; in COCO files, which know no order,
    it is ignored. A pixel of no region is ignored. Where writing was interrupted, the same call goes on with it.

    Args:
        settings: what to do.

    Yields:
        Progress; the last has the result.

    Raises:
        MissingFileError: the file or the export is not there.
        SettingsError: the export's manifest is damaged, or the output folder is the export or lies in it.
        LabelError: something is wrong with an image, and `skip_bad` is false, or with all; the message names each.
            Nothing was written.
        ForeignSettingsError: the output folder holds other labels.
        WorkspaceError: the output folder cannot be written, or another process has it.
    """
    manifest = read_manifest(settings.export)
    schema = manifest.schema()
    if settings.out.resolve().is_relative_to(settings.export.resolve()):
        raise SettingsError(f"--out {settings.out} lies in the export {settings.export}; choose a folder elsewhere")
    decisive: dict[str, object] = {"kind": KIND, "classes": list(schema.names), "review_rule": REVIEW_RULE}
    digest = settings_digest(decisive)
    checker = ReviewChecker(settings.export, manifest, schema, settings.format or manifest.format, digest)
    good, problems = yield from _check(settings, manifest, checker)
    wanted = [one for one in good if one.changed or not settings.changed_only]
    if not good or (problems and not settings.skip_bad):
        raise LabelError(_refusal(settings, problems, len(good)))
    kept = _keep(settings, manifest, schema, decisive, wanted)
    images = len(manifest.images)
    yield ImportProgress(images, images, _result(kept, good, wanted, problems, images))


def _check(
    settings: ImportReviewSettings, manifest: Manifest, checker: ReviewChecker
) -> Generator[ImportProgress, None, tuple[list[Reviewed], list[str]]]:
    """Labels of the images that are good, encoded: small enough to be held until all are known to be."""
    good: list[Reviewed] = []
    problems: list[str] = []
    for found in read_annotations(settings.file, settings.format or manifest.format):
        try:
            image = checker.find(found.name)
        except LabelError as error:
            problems.append(str(error))
            continue
        try:
            good.append(checker.check(image, found))
        except LabelError as error:
            problems.append(f"{image.file}: {error}")
        yield ImportProgress(len(good) + len(problems), len(manifest.images))
    return good, problems


def _refusal(settings: ImportReviewSettings, problems: list[str], good: int) -> str:
    if not problems:
        return f"{settings.file} holds no reviewed image; in Label Studio annotations must be submitted, not predicted"
    lines = "".join(f"\n  {problem}" for problem in problems[:_NAMED])
    more = f"\n  and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    hint = f"\n--skip-bad takes the other {good}" if good and not settings.skip_bad else ""
    return f"{len(problems)} of {good + len(problems)} images are wrong, nothing was imported:{lines}{more}{hint}"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What became of the good labels."""

    imported: int
    replaced: int
    known: int
    refused: tuple[str, ...]
    total: int


def _keep(
    settings: ImportReviewSettings,
    manifest: Manifest,
    schema: ClassSchema,
    decisive: dict[str, object],
    wanted: list[Reviewed],
) -> _Kept:
    """Write what is new; refuse, before anything is written, what would take another label's place unasked."""
    workspace = Workspace(settings.out)
    with opened_run(workspace) as ledger:
        refuse_foreign(workspace, ledger, ledger.settings, decisive, settings)
        new, refused = _sort(settings, workspace, ledger, wanted)
        if refused and not (settings.skip_bad and len(refused) < len(wanted)):
            raise LabelError(_refusal(settings, refused, len(wanted) - len(refused)))
        claim(workspace, ledger, ledger.settings, decisive, settings, "import-review", schema)
        replaced = sum(ledger.get(one.entry.key) is not None for one in new)
        for start in range(0, len(new), _GROUP):
            group = new[start : start + _GROUP]
            entries = [_publish(workspace, one) for one in group]
            ledger.commit(entries, {one.entry.key: one.note(manifest.digest()) for one in group})
        total = len(ledger.done_keys())
        record_plan(workspace, ledger, total, total - len(new))
    return _Kept(len(new), replaced, len(wanted) - len(new) - len(refused), tuple(refused), total)


def _sort(
    settings: ImportReviewSettings, workspace: Workspace, ledger: Ledger, wanted: list[Reviewed]
) -> tuple[list[Reviewed], list[str]]:
    """What is to be written; and what cannot be, with the reason. What is there already is in neither."""
    new, refused = [], []
    for one in wanted:
        key = one.entry.key
        path = workspace.label_path(key)
        before, note = ledger.get(key), ledger.note(key)
        same = note is not None and note["pixels"] == one.pixels
        if before is not None and same and label_agrees(before, path):
            continue
        if reason := reason_to_keep(path, one.entry.settings_digest, "the review imported"):
            refused.append(reason)
        elif before is not None and not same and not settings.replace:
            refused.append(f"{key}: {settings.out} has another reviewed label of it; --replace puts this in its place")
        else:
            new.append(one)
    return new, refused


def _publish(workspace: Workspace, one: Reviewed) -> Entry:
    path = workspace.label_path(one.entry.key)
    workspace.publish(path, one.content)
    return replace(one.entry, modified_ns=file_info(path).modified_ns)


def _result(
    kept: _Kept, good: list[Reviewed], wanted: list[Reviewed], problems: list[str], images: int
) -> ImportResult:
    return ImportResult(
        imported=kept.imported,
        replaced=kept.replaced,
        known=kept.known,
        unchanged=sum(not one.changed for one in good),
        left_out=len(good) - len(wanted),
        changed_pixels=sum(one.changed for one in good),
        pixels=sum(one.entry.height * one.entry.width for one in good),
        claimed_again=sum(one.claimed_again for one in good),
        missing=images - len(good),
        problems=(*problems, *kept.refused),
        total=kept.total,
    )
