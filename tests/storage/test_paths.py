"""Paths and URLs: what a text becomes, and how it is written again."""

import pickle
from pathlib import Path

import pytest

from pipeline.settings import LabelSettings, read_label_settings
from storage.errors import SettingsError
from storage.object_io import put_object
from storage.paths import as_path, is_remote, is_url, lies_in, path_text
from storage.state_folder import state_folder

pytest.importorskip("s3fs")


@pytest.mark.parametrize("text", ["images", "/data/images", "../a b", "C:/images", "a//b", ""])
def test_a_text_without_a_scheme_is_a_path_of_this_machine(text: str) -> None:
    """Whatever is no URL becomes the path that it always was."""
    assert as_path(text) == Path(text)
    assert not is_url(text)
    assert not is_remote(as_path(text))


def test_file_urls_are_paths_of_this_machine() -> None:
    """A URL of the disk becomes a real path, so that everything works on it."""
    path = as_path("file:///data/my images")
    assert (path, is_remote(path)) == (Path("/data/my images"), False)


@pytest.mark.parametrize("text", ["s3://bucket/images", "s3://bucket", "memory://a/b", "s3://bucket/a%20b#c/ä"])
def test_a_url_stays_as_it_is(text: str) -> None:
    """A place in a store keeps its URL, also through a slash at its end, a pickle, and a step down and up again."""
    path = as_path(text)
    assert is_remote(path)
    assert path_text(path) == text
    assert as_path(f"{text}/") == path == as_path(path)
    again = pickle.loads(pickle.dumps(path))  # noqa: S301 - our own
    assert (again, hash(again)) == (path, hash(path))
    assert path_text((again / "c/d.png").parent.parent) == text
    assert (again / "c/d.png").name == "d.png"


def test_schemes_that_nobody_speaks_are_refused() -> None:
    """The message of an unknown scheme says what would do."""
    with pytest.raises(SettingsError, match="no scheme that fsspec knows"):
        as_path("s4://bucket/images")


def test_a_client_tries_once_and_keeps_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are counted in one place, and fsspec's own configuration of a store holds all the same."""
    import fsspec.config

    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"s3": {"addressing_style": "path"}}})
    options = as_path("s3://bucket/x").storage_options  # type: ignore[attr-defined] # a UPath
    assert options["config_kwargs"] == {"s3": {"addressing_style": "path"}, "retries": {"total_max_attempts": 1}}
    assert options["use_listings_cache"] is False


def test_what_lies_in_what(tmp_path: Path) -> None:
    """A place lies in itself and in those above it; a disk and a store have nothing in common."""
    assert lies_in(as_path("s3://b/images/runs"), as_path("s3://b/images"))
    assert not lies_in(as_path("s3://b/images2"), as_path("s3://b/images"))
    assert not lies_in(as_path("s3://b/images"), tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    assert lies_in(tmp_path / "link" / "a", tmp_path / "images")


def test_settings_keep_urls() -> None:
    """Settings take a URL as text or as a path, write it as it was given, and read it back."""
    settings = LabelSettings.checked(images="s3://b/images", teacher="t", out=as_path("memory://paths/run"))
    assert b's3://b/images"' in settings.to_toml("label")
    put_object(as_path("memory://paths/settings.toml"), settings.to_toml("label"))
    assert read_label_settings(as_path("memory://paths/settings.toml")) == settings


def test_settings_refuse_a_run_in_its_images_and_what_is_kept_far_away() -> None:
    """Of stores the same is refused as of disks, and kept confidence on top."""
    with pytest.raises(SettingsError, match="folder of the images"):
        LabelSettings.checked(images="s3://b/images", teacher="t", out="s3://b/images/")
    with pytest.raises(SettingsError, match="other shards"):
        LabelSettings.checked(images="s3://b/images", teacher="t", out="s3://b/images/run", shard="1/2")
    with pytest.raises(SettingsError, match="keep confidence needs an out on this machine's disks"):
        LabelSettings.checked(images="s3://b/images", teacher="t", out="s3://b/run", keep="confidence")
    assert LabelSettings.checked(images="s3://b/i", teacher="t", out="here", keep="confidence").out == Path("here")


def test_each_run_has_a_state_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is that of the URL, below what the environment says."""
    monkeypatch.setenv("AUTOCOARSE_STATE", str(tmp_path / "given"))
    first = state_folder(as_path("s3://b/runs/auto"))
    assert first.parent == tmp_path / "given"
    assert first.name.startswith("auto-")
    assert state_folder(as_path("s3://b/runs/auto/")) == first
    assert state_folder(as_path("s3://b/other/auto")) != first
    monkeypatch.delenv("AUTOCOARSE_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder(as_path("s3://b/runs/auto")) == tmp_path / "xdg/autocoarse" / first.name
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder(as_path("s3://b/runs/auto")) == tmp_path / ".local/state/autocoarse" / first.name
