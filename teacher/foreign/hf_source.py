"""Where a model of transformers comes from: a directory, or a commit on the hub that the user named.

Nothing here reads what the files say.
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from storage.errors import MissingFileError, SettingsError
from teacher.foreign.hf_files import COMBINED, CONFIG, INDEX, PROCESSOR, WEIGHTS, shown, weight_files

_FETCHED = (
    CONFIG,
    PROCESSOR,
    COMBINED,
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "README.md",
    WEIGHTS,
    "model-*.safetensors",
    INDEX,
)
"""Of a repository, all that is ever fetched: no code, no pickles, no weights in other precisions."""
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LICENCE_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Source:
    """A directory of model files, and how a reader knows it."""

    directory: Path
    name: str
    """The directory as it was given, or the name on the hub."""
    revision: str | None = None
    """The commit on the hub; None: a directory, of which nobody says."""

    def licence(self) -> str | None:
        """What the model's own README says in its front matter: text of others, shortened."""
        readme = self.directory / "README.md"
        if not readme.is_file():
            return None
        with readme.open(encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 16)
        front = re.match(r"---[ \t]*\n(.*?)\n---", text, re.DOTALL)
        found = re.search(r"^license:[ \t]*(\S.*)$", front[1], re.MULTILINE) if front else None
        return shown(found[1].strip(" '\""), _LICENCE_SHOWN) if found else None


def find_source(where: str) -> Source:
    """Find a model's files, and fetch them if a name and a commit were given and they are not there yet.

    Args:
        where: a directory, or `NAME@REVISION` with the full hash of a commit.

    Raises:
        SettingsError: a name without a commit, or with one that may move.
        MissingFileError: no such directory, or the files cannot be fetched.
    """
    if Path(where).is_dir():
        return Source(Path(where), where)
    named = _NAMED.fullmatch(where)
    if not named or (named["revision"] is None and not named[2]):
        raise MissingFileError(
            f"no model of transformers at {where!r}: expected a directory, or NAME@REVISION with the name of a model "
            f"on the hub and the full hash of a commit"
        )
    name, revision = named["name"], named["revision"]
    if revision is None or not _COMMIT.fullmatch(revision):
        got = f"got {revision!r}" if revision else "got none"
        raise SettingsError(
            f"hf:{where}: expected the 40 hexadecimal digits of a commit after the @, {got}. A branch, a tag or no "
            f"revision moves, and labels could not be made again. The commits stand on "
            f"https://huggingface.co/{name}/commits/main, and git ls-remote https://huggingface.co/{name} HEAD gives "
            f"the latest. For a directory, check the path"
        )
    return Source(_fetched(name, revision), name, revision)


def _fetched(name: str, revision: str) -> Path:
    """The directory with a commit's files: from the cache where it has all, else from the network."""
    hub = library("huggingface_hub")
    with _without_bars(hub):
        try:
            cached = Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
            if (cached / CONFIG).is_file():
                weight_files(cached)
                return cached
        except (OSError, ValueError):
            pass  # nothing in the cache, or not all of it
        try:
            return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(_FETCHED)))
        except Exception as error:  # networks fail in many ways, and the hub's client adds its own
            reason = shown(error)
            raise MissingFileError(
                f"hf:{name}@{revision} is not in the cache of huggingface_hub and cannot be fetched "
                f"({type(error).__name__}: {reason}). Where there is a network, run hf download {name} --revision "
                f"{revision} --local-dir DIR --include '*.json' '*.safetensors' merges.txt README.md, bring DIR here, "
                f"and give hf:DIR"
            ) from error


def library(name: str) -> ModuleType:
    """Import transformers or huggingface_hub, which not everybody has.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f"a teacher hf:... needs {name}, which cannot be imported ({error}): pip install 'autocoarse[hf]'"
        ) from error


@contextmanager
def _without_bars(hub: ModuleType) -> Iterator[None]:
    were_off = hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            hub.utils.enable_progress_bars()
