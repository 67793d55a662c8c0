"""The project as a whole: its packages are its own, its commands are documented, its limits are kept."""

import importlib
import importlib.metadata
import re
from functools import cache
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, settings

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


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md")))]
)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    """Pictures and pages that a page of the documentation links to are there."""
    path = PROJECT / page
    links = re.findall(r"\]\(([^)\s#]+)", path.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_every_command_of_a_benchmark_names_options_that_it_has() -> None:
    """The benchmarks that pages and their own descriptions show are there, with the options that are shown."""
    pages = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"), *(PROJECT / "benchmarks").glob("*.py")]
    shown = set()
    for page in pages:
        text = page.read_text("utf-8").replace("\\\n", " ")
        # a command is a line, or what stands between two backticks, which may be wrapped
        for piece in [*text.splitlines(), *re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]:
            for name, rest in re.findall(r"benchmarks/(\w+\.py)([^`\"]*)", piece):
                shown |= {(page.name, name, option) for option in ["", *re.findall(r"--[a-z][\w-]*", rest)]}
    assert len(shown) > len(pages)
    assert not [(page, name, option) for page, name, option in sorted(shown) if option not in _options_of(name)]


@cache
def _options_of(name: str) -> set[str]:
    """The options of a benchmark, and none, which every one takes; nothing where there is no such file."""
    path = PROJECT / "benchmarks" / name
    return {"", *re.findall(r'add_argument\(\s*"(--[\w-]+)', path.read_text("utf-8"))} if path.exists() else set()


def test_no_property_fails_for_want_of_speed() -> None:
    """An example may take as long as it takes, also where other work keeps the machine busy."""
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
