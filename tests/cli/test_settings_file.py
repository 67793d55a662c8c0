"""The settings file: every flag can stand in it, flags win, mistakes are named."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main


def estimate(settings: Path, text: str, *arguments: str) -> Result:
    """Run `estimate` with a settings file of this content."""
    settings.write_text(text)
    return CliRunner().invoke(main, ["estimate", "--settings", str(settings), "--json", *arguments])


def test_flags_may_stand_in_a_table_of_the_command(tmp_path: Path) -> None:
    """Values come from the command's table, required ones too; other commands' tables are for them."""
    text = '[estimate]\ncount = 2\nsize = "4x3"\nclasses = "5"\n[label]\nthreshold = 0.9\n'
    got = json.loads(estimate(tmp_path / "s.toml", text).stdout)
    assert (got["count"], got["height"], got["width"], got["classes"]) == (2, 3, 4, 5)


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    """What is said on the command line counts."""
    text = '[estimate]\ncount = 2\nsize = [3, 4]\nclasses = "5"\n'
    got = json.loads(estimate(tmp_path / "s.toml", text, "--count", "7").stdout)
    assert (got["count"], got["height"], got["width"]) == (7, 3, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[estimate]\ncuont = 2\n", "did you mean count"),
        ("[estimates]\ncount = 2\n", "is no command"),
        ("[estimate\n", "no TOML"),
        ('[estimate]\ncount = 2\nsize = "big"\nclasses = "5"\n', "WIDTHxHEIGHT"),
    ],
)
def test_mistakes_in_the_file_are_usage_errors(tmp_path: Path, text: str, says: str) -> None:
    """Unknown tables and names, broken TOML and bad values are exit code 2 with a hint."""
    result = estimate(tmp_path / "s.toml", text)
    assert result.exit_code == 2
    assert says in result.stderr
