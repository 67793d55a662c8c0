"""The option types of paths: on this machine's disks, or of folders in a store where a command can work with one."""

from pathlib import Path
from typing import Any

import click

from storage.errors import SettingsError
from storage.paths import as_path, is_url


class LocalPath(click.Path):
    """A path on this machine's disks; what is wrong with one is told with all of it.

    Which folder that is from may not be plain: a relative path may stand in a settings file that lies elsewhere.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - as in the base
        """As the base does."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            where = Path(value).absolute()
            self.fail(error.message if where == Path(value) else f"{error.message} In full it is {where}.", param, ctx)


class Folder(LocalPath):
    """A folder on this machine's disks; of a command that reads and writes stores also a URL.

    Args:
        exists: it must be there; of a URL, whoever reads it tells.
        urls: whether URLs are taken.
    """

    def __init__(self, *, exists: bool, urls: bool) -> None:
        super().__init__(path_type=Path, file_okay=False, exists=exists)
        self._urls = urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - as in the base
        """Read "s3://bucket/run" as a place in a store, and file:///data/run as the folder."""
        if isinstance(value, str) and is_url(value):
            try:
                value = as_path(value)
            except SettingsError as error:
                self.fail(str(error), param, ctx)
        if not isinstance(value, str | Path):
            if self._urls:
                return value
            self.fail(
                f"{value} is in a store, and this works on folders of this machine's disks; copy it first, such as "
                f"with `aws s3 sync {value} FOLDER`",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


FOLDER_OR_URL = Folder(exists=True, urls=True)
OUT_OR_URL = Folder(exists=False, urls=True)
