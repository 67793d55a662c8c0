"""A report of a run: collected, drawn, and put into a folder that opens in a browser without network or server.

Items are measured first and shown afterwards, so that the worst come first and thumbnails fit into their bytes. What is
measured is in `report_measure`, what the page is in `report_rendering`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.cores import usable_cores
from pipeline.report_folder import KIND, MARK, VERSION, new_report
from pipeline.report_form import THUMBS_PER_FILE, Plot, Summary, Thumb
from pipeline.report_items import ItemTable
from pipeline.report_measure import Measurer, map_size
from pipeline.report_plots import long_tail, precision_coverage, triptych
from pipeline.report_quality import Findings, find_figures
from pipeline.report_rendering import ITEMS_PATH, items_script, page, thumbs_path, thumbs_script
from pipeline.report_settings import ReportSettings
from pipeline.report_sources import ReportItem, Sources, find_sources
from pipeline.report_summary import class_rows, summarise
from pipeline.report_sums import ReportSums
from pipeline.report_thumbs import ThumbPlan, choose_items, plan_thumbs
from pipeline.threads import map_ahead
from storage.atomic_file import as_ours
from storage.errors import SettingsError
from storage.paths import lies_in

_PROBLEMS = 3
"""So many files that could not be read are named."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was made."""

    folder: Path
    summary: Summary
    thumbs: int
    bytes: int
    """Of all files."""
    thumb_bytes: int
    """Of those of thumbnails."""
    problems: int
    """Files that could not be read, and are left out."""

    @property
    def index(self) -> Path:
        """The page."""
        return self.folder / "index.html"


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """How far a report is."""

    stage: str
    done: int
    total: int
    """Items."""
    report: Report | None = None
    """With the last one."""


def make_report(settings: ReportSettings) -> Iterator[ReportProgress]:
    """Make the report of a run; an older one stays whole until the new one is, and nothing else is written.

    Args:
        settings: what is asked for.

    Yields:
        Progress; the last has the report.

    Raises:
        ForeignSettingsError: its folder holds something else.
        SettingsError: its folder lies among labels or images, or in the run; or as `find_sources`.
        WorkspaceError: it cannot be written, or a ledger cannot be read.
        AutocoarseError: as `find_sources`.
    """
    sources = find_sources(settings)
    _refuse_places(settings, sources)
    workers = settings.workers or usable_cores()
    with new_report(settings.folder) as folder, ThreadPoolExecutor(workers, "report") as pool:
        maker = _Maker(settings, sources, folder, pool, 2 * workers)
        yield from maker.measure()
        yield from maker.show()
        report = maker.finish()
    yield ReportProgress("finished", len(sources.items), len(sources.items), report)


def _refuse_places(settings: ReportSettings, sources: Sources) -> None:
    """Plots must not be taken for images or labels, by any later run."""
    out = settings.folder
    apart = [run.root for run in sources.runs.values()]
    apart += [path for path in (sources.images, settings.coarse, settings.truth, settings.reviewed) if path is not None]
    for folder in apart:
        if lies_in(out, folder) or lies_in(folder, out):
            raise SettingsError(
                f"the report's folder {out} and {folder} lie in each other: its pictures would be taken for images or "
                f"labels, and its bytes count in a run's budget; choose another --out"
            )


@dataclass(slots=True)
class _Maker:
    """A report in the making."""

    settings: ReportSettings
    sources: Sources
    folder: Path
    pool: ThreadPoolExecutor
    ahead: int
    """Items that are worked on at a time, or wait to be taken up."""
    sums: ReportSums = field(init=False)
    findings: Findings = field(init=False)
    table: ItemTable = field(init=False)
    thumbs: list[int | None] = field(init=False)
    """By item, the number of its thumbnail."""
    thumb_bytes: int = 0
    empty: int = 0
    """Items of which nothing could be read that might be shown."""
    problems: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        sources = self.sources
        steps = None if sources.store is None else sources.store.form.steps
        self.sums = ReportSums(len(sources.schema), map_size(sources.items), steps)
        self.findings = Findings.of(sources)
        self.table = ItemTable(self.findings.disagreements())
        self.thumbs = [None] * len(sources.items)

    def measure(self) -> Iterator[ReportProgress]:
        """Read all labels once."""
        items = self.sources.items
        measurer = Measurer(self.sources, map_size(items))
        results = map_ahead(measurer.measure, items, self.pool, self.ahead)
        for number, (item, measured) in enumerate(zip(items, results, strict=True), 1):
            self.sums.add(measured)
            self.table.add(item, measured)
            self.problems.update(measured.problems)
            yield ReportProgress("measure", number, len(items))

    def show(self) -> Iterator[ReportProgress]:
        """Make the thumbnails, the worst item's first, until their bytes are used up."""
        limit = self.settings.thumb_bytes
        plan = plan_thumbs(self.sources, self.settings.thumb_size, limit, self.pool)
        visible = [place for place, item in enumerate(self.sources.items) if item.image is not None or item.labels]
        badness = self.table.badness
        chosen = [visible[place] for place in choose_items([badness[place] for place in visible], plan.fitting)]
        (self.folder / "data").mkdir()
        made = 0
        for chunk in self._chunks(plan, chosen):
            room, places = limit - self.thumb_bytes, list(chunk)
            content = thumbs_script(made, [thumb for _, thumb in places]).encode()
            while places and len(content) > room:
                places.pop()
                content = thumbs_script(made, [thumb for _, thumb in places]).encode()
            if places:
                self._write(thumbs_path(made // THUMBS_PER_FILE), content)
                self.thumb_bytes += len(content)
            for place, _ in places:
                self.thumbs[place] = made
                made += 1
            yield ReportProgress("thumbnails", made, len(chosen))
            if len(places) < len(chunk):
                break
        self.notes += plan.notes(made, len(visible) - self.empty, _megabytes(limit))

    def _chunks(self, plan: ThumbPlan, chosen: list[int]) -> Iterator[list[tuple[int, Thumb]]]:
        """Thumbnails with the places of their items, as many as are in a file."""
        chunk: list[tuple[int, Thumb]] = []
        items: Iterable[ReportItem] = (self.sources.items[place] for place in chosen)
        for place, (thumb, problems) in zip(
            chosen, map_ahead(plan.maker.make, items, self.pool, self.ahead), strict=True
        ):
            self.problems.update(problem for problem in problems if problem not in self.problems)
            if thumb is None:
                self.empty += 1
            else:
                chunk.append((place, thumb))
            if len(chunk) == THUMBS_PER_FILE:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def finish(self) -> Report:
        """Write the table, the plots and the page."""
        figures = find_figures(self.sources, self.sums, self.findings)
        rows = class_rows(self.sources, self.sums, figures)
        drawn = (
            ("long-tail", "Pixels of each class, before and after", long_tail(rows)),
            ("precision-coverage", "Precision against coverage", precision_coverage(rows, figures.curves)),
            ("labels", "Images and labels", triptych(self.sources)),
        )
        plots = []
        for name, label, picture in drawn:
            if picture is not None:
                plots.append(Plot(f"plots/{name}.png", label))
                self._write(plots[-1].path, picture)
        summary = summarise(self.sources, self.sums, figures, plots, (*self.notes, *self._problem_notes()))
        self._write(ITEMS_PATH, items_script(self.table.columns(self.thumbs), len(self.sources.schema)).encode())
        self._write("index.html", page(summary).encode())
        content = {"kind": KIND, "version": VERSION, "run": str(self.sources.run.root), **asdict(summary)}
        self._write(MARK, (json.dumps(content) + "\n").encode())
        thumbs = sum(number is not None for number in self.thumbs)
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return Report(self.settings.folder, summary, thumbs, size, self.thumb_bytes, len(self.problems))

    def _problem_notes(self) -> list[str]:
        if not self.problems:
            return []
        named = list(self.problems)[:_PROBLEMS]
        more = len(self.problems) - len(named)
        return [f"Left out, as it cannot be used: {'; '.join(named)}{f'; and {more} more' if more else ''}."]

    def _write(self, relative: str, content: bytes) -> None:
        path = self.folder / relative
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)  # the folder as a whole appears at once, when all is written
        except OSError as error:
            raise as_ours(f"cannot write the report at {self.settings.folder}", error) from error


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB"
