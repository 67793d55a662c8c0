"""The settings file: every flag can stand in it, flags win, mistakes are named."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.options import _FORMS


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
        ("[estimates]\ncount = 2\n", "is no table of settings"),
        ("[estimate\n", "no TOML"),
        ('[estimate]\ncount = 2\nsize = "big"\nclasses = "5"\n', "WIDTHxHEIGHT"),
        ("label = 5\n", "label is 5, expected a table [label]"),
        ("[[estimate]]\ncount = 2\n", "expected a table [estimate]"),
        ("[estimate]\nas_json = true\n", "did you mean json"),
    ],
)
def test_mistakes_in_the_file_are_usage_errors(tmp_path: Path, text: str, says: str) -> None:
    """Unknown tables and names, broken TOML and bad values are exit code 2 with a hint."""
    result = estimate(tmp_path / "s.toml", text)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        ("estimate", "images = 3", "text"),
        ("estimate", 'images = ["a"]', "text"),
        ("estimate", "layout = true", "text"),
        ("estimate", "count = 2.9", "an integer"),
        ("estimate", "count = true", "an integer"),
        ("estimate", 'count = "2"', "an integer"),
        ("estimate", "size = 5", "[height, width]"),
        ("estimate", "size = [3.5, 4]", "[height, width]"),
        ("estimate", "size = [3, 4, 5]", "[height, width]"),
        ("estimate", "classes = 2.5", "number of classes"),
        ("estimate", "budget = true", "600MB"),
        ("estimate", 'json = "yes"', "true or false"),
        ("estimate", "json = 1", "true or false"),
        ("label", "out = 3", "text"),
        ("label", "classes = 1979-05-27", "text"),
        ("label", "threshold = true", "a number"),
        ("label", 'threshold = "0.5"', "a number"),
        ("label", "scales = [true, 1.0]", "numbers"),
        ("label", "scales = 1.0", "numbers"),
        ("train", "steps = 2.9", "an integer"),
        ("train", "batch = true", "an integer"),
        ("train", "seed = 1.0", "an integer"),
    ],
)
def test_a_value_of_another_type_is_a_usage_error(tmp_path: Path, command: str, line: str, expected: str) -> None:
    """Nothing is rounded, cast or left to fail later: file, key, value and what was expected are named."""
    settings = tmp_path / "s.toml"
    settings.write_text(f"[{command}]\n{line}\n")
    result = CliRunner().invoke(main, [command, "--settings", str(settings)])
    assert result.exit_code == 2
    assert f"s.toml: {line.split(' = ')[0]} of [{command}] is " in result.stderr
    assert expected in result.stderr


def test_relative_paths_are_from_the_folder_where_one_is_and_told_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path in a file that lies elsewhere is looked for where the command is started, and the error says where."""
    (tmp_path / "elsewhere/images").mkdir(parents=True)
    settings = tmp_path / "elsewhere/settings.toml"
    settings.write_text('[label]\nimages = "images"\nteacher = "no.pt"\nout = "run"\n')
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["label", "--settings", str(settings)])
    assert result.exit_code == 2
    assert f"does not exist. In full it is {tmp_path / 'images'}." in result.stderr
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = CliRunner().invoke(main, ["label", "--settings", str(settings)])
    assert result.exit_code == 2, result.stderr
    assert f"there is no {tmp_path / 'elsewhere/no.pt'}" in result.stderr


@pytest.mark.parametrize(
    "text", ["json = true\nclasses = 5\nbudget = 1000000", 'json = true\nclasses = "5"\nbudget = "1MB"']
)
def test_keys_are_the_names_of_the_flags(tmp_path: Path, text: str) -> None:
    """--json is json in the file; numbers stand there as numbers or as the text that the flag takes."""
    settings = tmp_path / "s.toml"
    settings.write_text(f"[estimate]\ncount = 2\nsize = [3, 4]\n{text}\n")
    got = json.loads(CliRunner().invoke(main, ["estimate", "--settings", str(settings)]).stdout)
    assert (got["count"], got["height"], got["width"], got["classes"]) == (2, 3, 4, 5)
    assert got["within_budget"] is True


def test_every_option_has_a_form_in_the_file() -> None:
    """Numbers are checked as numbers, whatever range they have; only text is left for the rest."""
    text = _FORMS[-1][0]
    for command in main.commands.values():
        for parameter in command.params:
            kind = next(kind for kind, _, _ in _FORMS if isinstance(parameter.type, kind))
            known = isinstance(parameter.type, click.Path | click.Choice | click.types.StringParamType)
            assert (kind is text) == known, (command.name, parameter.name)
