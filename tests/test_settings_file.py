"""Settings come back from a file as they went in, and what is wrong in one is said."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import refdiff
from refdiff.cli import app
from refdiff.families import FAMILIES, Family
from refdiff.settings import PROFILES, Settings
from refdiff.settings_file import (
    VARIABLE,
    files_in,
    folders,
    read_settings,
    settings_named,
    write_settings,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_survive_their_file(tmp_path: Path, profile: str, family: Family) -> None:
    settings = Settings.named(profile, family)
    file = write_settings(tmp_path / "mine.refdiff.toml", settings)
    assert read_settings(file) == replace(settings, profile="mine")
    default = write_settings(tmp_path / "d.refdiff.toml", replace(settings, profile="default"))
    assert read_settings(default) == replace(settings, profile="d")  # told as changes of default


def test_changes_survive_their_file_and_nothing_else_is_in_it(tmp_path: Path) -> None:
    base = Settings()
    changed = replace(
        base,
        alpha=1 / 3,
        threshold=0.5,
        capture=replace(base.capture, timesteps=(50, 150), flip=True, size=2),
        crop=replace(base.crop, margin=0.25),
    )
    told = {"model": 'a "model" \\ of mine', "giou": [0.5, 0.625], "clip": None}
    file = write_settings(tmp_path / "mine.refdiff.toml", changed, told)
    assert read_settings(file) == replace(changed, profile="mine")
    text = file.read_text()
    assert "beta" not in text and "giou = [0.5, 0.625]" in text and "None" not in text
    again = write_settings(tmp_path / "again.refdiff.toml", replace(base, threshold=None))
    assert read_settings(again) == replace(base, profile="again")


def test_what_is_unset_stays_unset(tmp_path: Path) -> None:
    file = tmp_path / "mine.refdiff.toml"
    for field in ("stride_weights", "threshold"):
        if not hasattr(Settings(), field):
            continue
        settings = replace(Settings(), **{field: None})
        write_settings(file, settings)
        assert read_settings(file) == replace(settings, profile="mine")


WRONG = {
    "not toml": ("alpha 3", "not TOML"),
    "unknown": ("[settings]\nalpah = 0.5", "no setting 'alpah'; did you mean 'alpha'"),
    "nested unknown": ("[settings.capture]\nseed = 1\nspeed = 2", "'capture.speed'"),
    "kind": ('[settings]\nalpha = "high"', "alpha is 'high', wanted float"),
    "range": ("[settings]\nalpha = 7.0", "alpha is 7.0, wanted 0 to 1"),
    "nan": ("[settings]\nalpha = nan", "alpha is nan"),
    "truth for a number": ("[settings]\nalpha = true", "alpha is True"),
    "a number for a table": ("[settings]\ncapture = 3", "capture is 3"),
    "a table for a number": ("[settings.alpha]\nx = 3", "alpha is {'x': 3}"),
    "one of": ('[settings]\nplace_rule = "left"', "place_rule is 'left'"),
    "base": ('base = "best"', "\"base\" in .* is 'best'"),
    "extra": ("colour = 3", "'colour'"),
    "profile": ('[settings]\nprofile = "x"', "no setting 'profile'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, name: str) -> None:
    text, said = WRONG[name]
    file = tmp_path / "mine.refdiff.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read_settings(file)
    assert "mine.refdiff.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_files_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv(VARIABLE, raising=False)
    write_settings(here / "mine.refdiff.toml", replace(Settings(), alpha=0.5))
    write_settings(there / "ours.refdiff.toml", replace(Settings(), alpha=0.75))
    assert settings_named("mine").alpha == 0.5 and list(files_in(folders())) == ["mine"]
    with pytest.raises(ValueError, match=r"'ours'.*default, paper, official, mine"):
        settings_named("ours")
    assert settings_named(str(there / "ours.refdiff.toml")).alpha == 0.75
    monkeypatch.setenv(VARIABLE, str(there))
    assert settings_named("ours").alpha == 0.75 and list(files_in(folders())) == ["mine", "ours"]
    assert settings_named("paper") == Settings.paper()
    with pytest.raises(ValueError, match=r"nowhere\.toml' cannot be read"):
        settings_named("nowhere.toml")


def test_only_the_ending_is_written(tmp_path: Path) -> None:
    for name in ("mine.toml", ".refdiff.toml", "mine"):
        with pytest.raises(ValueError, match=r"NAME\.refdiff\.toml"):
            write_settings(tmp_path / name, Settings())
    assert not list(tmp_path.iterdir())


@pytest.mark.models
def test_segment_takes_a_file(
    tmp_path: Path, tiny_model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_settings(tmp_path / "mine.refdiff.toml", replace(Settings(), least_area=0.01))
    words = ["segment", str(photo), "a cat", "-m", str(tiny_model), "-p", "mine", "--json"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert '"profile": "mine"' in found.stdout and '"least_area": 0.01' in found.stdout
    wrong = CliRunner().invoke(app, [*words[:5], "-p", "yours"])
    assert wrong.exit_code == 2 and "error: The profile is 'yours'" in wrong.stderr


def test_python_takes_a_name(
    tmp_path: Path, tiny_pipe: Any, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_settings(tmp_path / "mine.refdiff.toml", replace(Settings(), least_area=0.01))
    for given in ("mine", str(file), file):
        look = refdiff.look(tiny_pipe, photo, settings=given)
        assert look.settings == read_settings(file) and look("a cat").settings.least_area == 0.01
    assert refdiff.look(tiny_pipe, photo, settings="paper").settings == Settings.paper()
    with pytest.raises(ValueError, match="The profile is 'yours'"):
        refdiff.look(tiny_pipe, photo, settings="yours")


def test_what_never_ends_or_is_too_deep_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.refdiff.toml"
    os.mkfifo(file)
    with pytest.raises(ValueError, match="it is no file"):
        settings_named(str(file))
    assert files_in([tmp_path]) == {}
    file.unlink()
    file.write_text("a = " + "[" * 100_000)
    with pytest.raises(ValueError, match=r"nested too deep|not TOML"):
        settings_named(str(file))
