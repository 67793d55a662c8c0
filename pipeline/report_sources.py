"""What a report is made from: the run, its images, and the label sets that are laid over them.

It lists files and reads ledgers; no image and no label is opened.
"""

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.plan import refusals
from pipeline.report_form import LAYERS, Layer
from pipeline.report_settings import ReportSettings
from pipeline.verify_account import Source
from storage.errors import LayoutError, MissingFileError, SettingsError
from storage.layouts import LabelFile, Layout, Listing, list_images, list_labels, pairing_key
from storage.ledger import Entry, Ledger
from storage.paths import is_remote, path_text
from storage.schema import ClassSchema, Ids, load_schema
from storage.soft_store import SoftStore
from storage.workspace import Workspace

Pixels = tuple[int, ...]
"""By class index."""


@dataclass(frozen=True, slots=True)
class ReportItem:
    """One item of the run, and what there is of it."""

    key: str
    image: Path | None
    """None: its image was not found."""
    entry: Entry | None
    """What became of it; None: it is not come to yet."""
    labels: Mapping[Layer, LabelFile]
    slot: int | None = None
    """Where the confidence of its automatic label is kept."""
    reviewed: bool = False
    """Whether people have corrected its label."""


@dataclass(frozen=True, slots=True)
class Sources:
    """All that a report is made from."""

    run: Workspace
    command: str
    """That made the run; empty where its settings do not say."""
    own: Layer
    """What the run's own labels are: `auto`, or `merged` of a run of `merge`."""
    runs: Mapping[Layer, Workspace]
    """The runs that automatic and merged labels are from; of labels that lie in a folder there is none."""
    schema: ClassSchema
    items: tuple[ReportItem, ...]
    """By key."""
    images: Path | None
    """Their folder; None: they were not found."""
    layers: tuple[Layer, ...]
    """Those of which there is any label."""
    pixels: Mapping[Layer, Pixels]
    """Of the labels of `runs`, as their ledgers say."""
    store: SoftStore | None
    """Where confidence is kept."""
    table: Mapping[str, Any]
    """The run's own settings, as its settings.toml has them; empty where that cannot be read."""
    notes: tuple[str, ...]
    """What is not there, and what would bring it."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What decides the labels, as the run's ledger says."""
        with Ledger(self.run.ledger, read_only=True) as ledger:
            return ledger.settings or {}


def find_sources(settings: ReportSettings) -> Sources:
    """Find out what there is to report on.

    Raises:
        MissingFileError: there is no such run, or a folder that was named is not there.
        SettingsError: the run is in a store, or the merged one is no run of `merge`.
        SchemaError: a run has other classes.
        LayoutError: a folder that was named holds no labels or images, or two of one key.
        WorkspaceError: a ledger cannot be read.
    """
    run = _run(settings.run)
    schema = load_schema(str(run.classes))
    command, table = _read_table(run)
    found = _label_sets(settings, run, command, table, schema)
    own: Layer = "merged" if command == "merge" else "auto"
    listing, folder, missing = _images(settings, found.runs.get("auto", run))
    images = {} if listing is None else {item.key: item.image for item in listing.items}
    entries = _entries(run)
    if listing is not None and own == "auto":  # a run of `rethreshold` has no entries of images without a label
        entries = {one.key: one for one in refusals(listing.problems, "")} | entries
    store, slots = _confidence(found.runs.get("auto"), schema)
    items = _items(entries, images, found, slots, of_all=own == "auto")
    if not items:
        raise LayoutError(f"{run.root}: nothing is in it yet, neither labels nor images; label first")
    return Sources(
        run=run,
        command=command,
        own=own,
        runs=found.runs,
        schema=schema,
        items=items,
        images=folder,
        layers=tuple(layer for layer in LAYERS if any(layer in item.labels for item in items)),
        pixels={layer: _pixels(where, schema) for layer, where in found.runs.items()},
        store=store,
        table=table,
        notes=(*found.notes, *missing, *_strangers(items, folder), *_absent(items, found.sets, store, run, command)),
    )


def _run(folder: Path) -> Workspace:
    if is_remote(folder):
        raise SettingsError(
            f"{path_text(folder)} is in a store, and a report is made of runs on this machine's disks; copy it first"
        )
    run = Workspace.holding(folder)
    if run is None:
        raise MissingFileError(
            f"{folder} is no RUN: it has no labels and ledger.sqlite; give what `label`, `merge` or `rethreshold` made"
        )
    return run


def _read_table(run: Workspace) -> tuple[str, Mapping[str, Any]]:
    """The command that made a run, and its settings; empty where these cannot be read."""
    try:
        content = tomllib.loads(run.settings.read_text("utf-8"))
    except (OSError, ValueError):
        return "", {}
    for command, table in content.items():
        if isinstance(table, dict):
            return command, table
    return "", {}


@dataclass(slots=True)
class _Labels:
    """The label sets of a report, as they are found."""

    schema: ClassSchema
    sets: dict[Layer, Mapping[str, LabelFile]] = field(default_factory=dict)
    """By layer and pairing key."""
    runs: dict[Layer, Workspace] = field(default_factory=dict)
    reviewed: Collection[str] = ()
    """Pairing keys of the images whose labels people have corrected."""
    notes: list[str] = field(default_factory=list)

    def add_run(self, layer: Layer, run: Workspace) -> None:
        """Take the labels of a run, which may have none yet."""
        self.runs[layer] = run
        self.sets[layer] = list_labels(run.labels, schema=self.schema) if _has_labels(run) else {}

    def add_folder(self, layer: Layer, folder: Path | None, layout: Layout, ids: Ids | None) -> None:
        """Take the labels of a folder, if one is given."""
        if folder is not None:
            self.sets[layer] = list_labels(folder, layout, ids, self.schema)

    def add_parents(self, table: Mapping[str, Any]) -> None:
        """Take what a run of `merge` was merged from, as far as it is still there."""
        layout, ids = table.get("layout", "folder"), table.get("ids")
        for layer in ("auto", "coarse"):
            folder = Path(str(table.get(layer, "")))
            if layer == "auto" and (parent := Workspace.holding(folder)) is not None:
                self.add_run("auto", parent)
            elif layer in table and folder.is_dir():
                self.add_folder(layer, folder, layout, ids)
            else:
                self.notes.append(f"The {layer} labels that were merged are not found at {folder}.")


def _label_sets(
    settings: ReportSettings, run: Workspace, command: str, table: Mapping[str, Any], schema: ClassSchema
) -> _Labels:
    found = _Labels(schema)
    found.add_run("merged" if command == "merge" else "auto", run)
    if command == "merge":
        found.add_parents(table)
    if settings.merged is not None:
        if command == "merge":
            raise SettingsError(f"{run.root} is a run of `merge` itself; leave out --merged, or give the auto RUN")
        merged = _run(settings.merged)
        if _read_table(merged)[0] != "merge":
            raise SettingsError(f"{merged.root} is no run of `merge`; give what `autocoarse merge --out` made")
        found.add_run("merged", merged)
    found.add_folder("coarse", settings.coarse, settings.layout, settings.ids)
    found.add_folder("truth", settings.truth, settings.layout, settings.ids)
    if settings.reviewed is not None:
        found.reviewed = list_labels(settings.reviewed, settings.layout, settings.ids, schema).keys()
    return found


def _has_labels(run: Workspace) -> bool:
    with Ledger(run.ledger, read_only=True) as ledger:
        return ledger.has_labels()


def _entries(run: Workspace) -> dict[str, Entry]:
    with Ledger(run.ledger, read_only=True) as ledger:
        return {entry.key: entry for entry in list(ledger)}  # all at once: a run at work waits for whoever reads


def _pixels(run: Workspace, schema: ClassSchema) -> Pixels:
    totals = [0] * len(schema)
    with Ledger(run.ledger, read_only=True) as ledger:
        for entry in ledger:
            if entry.status == "done":
                totals = [a + b for a, b in zip(totals, entry.counts, strict=True)]
    return tuple(totals)


def _images(settings: ReportSettings, run: Workspace) -> tuple[Listing | None, Path | None, list[str]]:
    """The images, their folder, and what is to be said where there are none."""
    if settings.images is not None:
        return list_images(settings.images, settings.layout, [run.root, settings.folder]), settings.images, []
    source = Source.of(run)
    if source.listing is None or source.folder is None or is_remote(source.folder):
        reason = source.absence or f"they are in a store, {source.folder}"
        return None, None, [f"The images are not shown: {reason}. --images DIR says where they are."]
    return source.listing, source.folder, []


def _confidence(run: Workspace | None, schema: ClassSchema) -> tuple[SoftStore | None, dict[str, int]]:
    """Where a run keeps confidence in these classes, and the slots by pairing key."""
    if run is None or (store := SoftStore.find(run.soft)) is None or store.form.classes != schema.names:
        return None, {}
    with Ledger(run.ledger, read_only=True) as ledger:
        done, slots = ledger.done_keys(), ledger.slots()
    return store, {pairing_key(key): slot for key, slot in slots.items() if key in done}


def _items(
    entries: Mapping[str, Entry],
    images: Mapping[str, Path],
    found: _Labels,
    slots: Mapping[str, int],
    *,
    of_all: bool,
) -> tuple[ReportItem, ...]:
    """All items; `of_all`: an image without an entry is one that is left."""
    image_of = {pairing_key(key): path for key, path in images.items()}
    keys: Iterable[str] = entries.keys() | images.keys() if of_all else entries.keys()
    items = []
    for key in sorted(keys):
        pair = pairing_key(key)
        entry = entries.get(key)
        labels = {layer: files[pair] for layer, files in found.sets.items() if pair in files}
        items.append(ReportItem(key, image_of.get(pair), entry, labels, slots.get(pair), pair in found.reviewed))
    return tuple(items)


def _strangers(items: Collection[ReportItem], images: Path | None) -> list[str]:
    """What is to be said of labels whose images are not among those that there are."""
    labelled = [item for item in items if item.entry is not None and item.entry.status == "done"]
    alone = sum(item.image is None for item in labelled)
    if images is None or not alone:
        return []
    return [f"{alone} of {len(labelled)} labels have no image in {images}: --images DIR names what was labelled."]


def _absent(
    items: Iterable[ReportItem],
    sets: Mapping[Layer, Collection[str]],
    store: SoftStore | None,
    run: Workspace,
    command: str,
) -> list[str]:
    """What would bring the parts of a report that are missing."""
    given = {layer for item in items for layer in item.labels}
    notes = [
        f"None of the {layer} labels is of an image of this run."
        for layer in sets
        if sets[layer] and layer not in given
    ]
    if "coarse" not in sets:
        what = "pixel count before" + ("" if run.audit.exists() else " and no disagreement")
        notes.append(f"Without coarse labels there is no {what}: --coarse DIR.")
    if "truth" not in sets:
        notes.append("Errors are not known without a ground truth: --truth DIR.")
    if store is None:
        where = (
            "of the run whose labels were merged"
            if command == "merge"
            else "of this run, of the one that `rethreshold` made it of, or of all the parts that `gather` joined"
        )
        notes.append(
            f"No confidence was kept, for its histogram and curves: it is with the `label --keep confidence` {where}."
        )
    return notes
