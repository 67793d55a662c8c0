"""The project as a whole: its packages are its own, its commands are documented, its limits are kept."""

import importlib
import importlib.metadata
from pathlib import Path

import click
import pytest

from cli.main import main

PROJECT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("package", ["storage", "teacher", "pipeline", "cli"])
def test_each_package_is_the_projects_own(package: str) -> None:
    """The short package names resolve to this project, not to another distribution of the environment."""
    found = Path(str(importlib.import_module(package).__file__)).resolve()
    installed = Path(str(importlib.metadata.distribution("autocoarse").locate_file(package))).resolve()
    assert found.parent in (installed, PROJECT / package)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_in_the_readme_and_has_help(name: str) -> None:
    """No command is hidden, and every option says what it does."""
    command = main.commands[name]
    assert f"autocoarse {name}" in (PROJECT / "README.md").read_text("utf-8")
    assert command.help
    undocumented = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not undocumented
