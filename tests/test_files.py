"""What is written appears whole or not at all, and replaces nothing of the user's unasked."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import Image
from typer.testing import CliRunner

import refdiff
from refdiff.cli import app
from refdiff.errors import RefDiffError
from refdiff.io.files import not_ours, signed, write_folder, write_safely
from refdiff.io.pictures import read_picture

NAMES = ["mask.png", "overlay.png", "report.json", "runner_up.png"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(refdiff.__file__).parents[1])}
ENVIRONMENT.pop("REFDIFF_MODEL", None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full_disk(file: BinaryIO) -> None:
    file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(file: BinaryIO) -> None:
    file.write(b"half")
    raise KeyboardInterrupt


# ---- one file, one folder ---------------------------------------------------------------------


def test_a_file_is_written_whole_and_its_folders_made(tmp_path: Path) -> None:
    path, picture = tmp_path / "new" / "deeper" / "a.png", Image.new("RGB", (9, 6))
    write_safely(path, lambda file: picture.save(file, "PNG"))
    assert read_picture(path).size == (9, 6)
    write_safely(path, b"two")
    assert path.read_bytes() == b"two" and names(path.parent) == ["a.png"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("fails", "kind"), [(full_disk, RefDiffError), (interrupted, BaseException)]
)
def test_a_failing_writer_leaves_what_was_there(
    tmp_path: Path, fails: Callable[..., None], kind: type[BaseException]
) -> None:
    write_safely(tmp_path / "a", b"old")
    write_folder(tmp_path / "set", {"a": b"old", "b": b"old"})
    with pytest.raises(kind):
        write_safely(tmp_path / "a", fails)
    with pytest.raises(kind):
        write_folder(tmp_path / "set", {"a": b"new", "b": fails})
    with pytest.raises(kind):
        write_folder(tmp_path / "other", {"a": b"new", "b": fails})
    assert names(tmp_path) == ["a", "set"] and names(tmp_path / "set") == ["a", "b"]
    assert {path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {b"old"}


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RefDiffError, match=r"set/b' cannot be written.*[Nn]o space.*free some"):
        write_folder(tmp_path / "set", {"a": b"", "b": full_disk})
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "below", Path("/proc/refdiff")):
        with pytest.raises(RefDiffError, match="cannot be written"):
            write_folder(path, {"a": b""})
        with pytest.raises(RefDiffError, match="cannot be written"):
            write_safely(path, b"")


def test_other_files_in_a_folder_stay(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a": b"1", "b": b"1"})
    (tmp_path / "set" / "mine.txt").write_text("mine")
    (tmp_path / "set" / "more").mkdir()
    write_folder(tmp_path / "set", {"a": b"2"})
    assert names(tmp_path / "set") == ["a", "b", "mine.txt", "more"]
    assert (tmp_path / "set" / "a").read_bytes() == b"2"
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_other_files_stay_where_the_disk_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """exFAT and many network drives."""

    def refused(*_places: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    write_folder(tmp_path / "set", {"a": b"1"})
    (tmp_path / "set" / "mine.txt").write_text("mine")
    write_folder(tmp_path / "set", {"a": b"2"})
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "set" / "a").read_bytes() == b"2" and names(tmp_path) == ["set"]


def test_other_files_stay_while_others_write(tmp_path: Path) -> None:
    """The user's own file in a folder that four processes write at once."""
    folder = tmp_path / "set"
    write_folder(folder, {"a": b"0"})
    (folder / "mine.txt").write_text("mine")
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=write_often, args=(folder, bytes([97 + number])))
        for number in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4 and names(tmp_path) == ["set"]
    assert names(folder) == sorted(["a", "mine.txt", *NAMES])


def test_a_link_in_the_way_goes_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_bytes(b"mine")
    (tmp_path / "set").symlink_to(tmp_path / "kept")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("set", "device"):
        write_folder(tmp_path / name, {"a": b"new"})
        assert (tmp_path / name / "a").read_bytes() == b"new"
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "kept" / "a").read_bytes() == b"mine"
    assert names(tmp_path) == ["device", "kept", "set"]


def write_often(folder: Path, letter: bytes) -> None:
    for _ in range(60):
        write_folder(folder, {name: letter * 2000 for name in NAMES})


def test_processes_in_one_place_never_mix(tmp_path: Path) -> None:
    """Four write the same folder, and whoever looks meanwhile sees one of them or none."""
    folder = tmp_path / "set"
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=write_often, args=(folder, bytes([97 + number])))
        for number in range(4)
    ]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        try:
            held = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            found = set()
            for name in NAMES:
                with open(os.open(name, os.O_RDONLY, dir_fd=held), "rb") as file:
                    found.add(file.read())
            assert len(found) == 1 and len(next(iter(found))) == 2000
            seen += 1
        except FileNotFoundError:  # replaced while it was read
            continue
        finally:
            os.close(held)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert seen and names(tmp_path) == ["set"] and names(folder) == NAMES


KILLED = """
import os, sys
from pathlib import Path
from refdiff.io import files
folder, moment, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
count = 0
def counted(real):
    def move(*places, **options):
        global count
        if count == moment:
            os.kill(os.getpid(), kind)
        count += 1
        real(*places, **options)
    return move
os.rename, os.link = counted(os.rename), counted(os.link)
def half(file):
    file.write(b"new")
    file.flush()
    if moment < 0:
        os.kill(os.getpid(), kind)
files.write_folder(folder, {"a": b"new", "b": half})
"""


@pytest.mark.parametrize("moment", [-1, 0, 1, 2])
def test_what_a_killed_process_left_is_tidied(tmp_path: Path, moment: int) -> None:
    """Killed before, between and after the renames: one set or the other, and nothing is lost."""
    folder = tmp_path / "set"
    write_folder(folder, {"a": b"old", "b": b"old"})
    (folder / "mine").write_bytes(b"mine")
    words = [sys.executable, "-c", KILLED, str(folder), str(moment), str(int(signal.SIGKILL))]
    killed = subprocess.run(words, env=ENVIRONMENT)
    assert killed.returncode == -signal.SIGKILL
    held = {path.read_bytes() for path in folder.glob("[ab]")}
    assert len(held) <= 1 and len(names(tmp_path)) > 1
    write_folder(tmp_path / "next", {"a": b"next"})
    assert names(tmp_path) == ["next", "set"]
    held = {path.read_bytes() for path in folder.glob("[ab]")}
    assert len(held) == 1 and (folder / "mine").read_bytes() == b"mine"


def test_temporaries_of_those_who_still_write_stay(tmp_path: Path) -> None:
    def meanwhile(file: BinaryIO) -> None:
        write_folder(tmp_path / "other", {"a": b"1"})
        file.write(b"1")

    write_folder(tmp_path / "set", {"a": meanwhile})
    assert names(tmp_path) == ["other", "set"]


# ---- what refdiff wrote itself ----------------------------------------------------------------


def test_own_files_are_told_from_others(tmp_path: Path) -> None:
    pictures = {"mask.png": b"mask", "overlay.png": b"overlay", "runner_up.png": b"second"}
    write_folder(tmp_path, {**pictures, "report.json": signed({"é\udce9": [0.1, 1e-9]}, pictures)})
    assert not_ours(tmp_path, NAMES) == [] == not_ours(tmp_path / "nowhere", NAMES)
    report = tmp_path / "report.json"
    whole = report.read_text()
    assert json.loads(whole)["é\udce9"] == [0.1, 1e-9]
    report.write_text(whole.replace("0.1", "0.2"))
    assert not_ours(tmp_path, NAMES) == ["report.json"]
    report.write_text(whole)
    (tmp_path / "mask.png").write_bytes(b"touched up")
    assert not_ours(tmp_path, NAMES) == ["mask.png"]
    for other in ("", "[]", "{}", '{"sha256": 7}', "[" * 99_999):
        report.write_text(other)
        assert not_ours(tmp_path, NAMES) == NAMES
    report.unlink()
    assert not_ours(tmp_path, NAMES) == ["mask.png", "overlay.png", "runner_up.png"]


@pytest.fixture
def segment(photo: Path, tiny_model: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(*words: object, code: int = 0) -> Any:
        words = ("segment", photo, "the cat", "-m", tiny_model, "-o", photo.parent, *words)
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    return call


def test_nothing_of_the_users_is_replaced(segment: Callable[..., Any], photo: Path) -> None:
    """Not what other tools keep beside a picture, nor an answer that was touched up."""
    labels = {photo.with_name(name): b"mine" for name in ("photo.json", "photo.mask.png")}
    for path, content in labels.items():
        path.write_bytes(content)
    segment()
    segment()
    assert all(path.read_bytes() == content for path, content in labels.items())
    mask = photo.with_name("photo.refdiff") / "mask.png"
    mine = Image.open(mask).point(lambda level: 255 - level)
    mine.save(mask)
    before = mask.read_bytes()
    said = segment(code=2).stderr
    assert "mask.png' was not written by refdiff, or was changed since" in said
    assert "--overwrite" in said and mask.read_bytes() == before
    segment("--overwrite")
    assert mask.read_bytes() != before


def test_what_was_given_is_never_replaced(
    segment: Callable[..., Any], photo: Path, tiny_model: Path
) -> None:
    segment()
    folder = photo.with_name("photo.refdiff")
    mask = folder / "mask.png"
    before = mask.read_bytes()
    for given in ((mask,), (folder,)):
        for more in ((), ("--overwrite",)):
            said = segment("--proposals", *given, *more, code=2).stderr
            assert "which was given; write elsewhere with -o" in said
    words = ["segment", mask, "the cat", "-m", tiny_model, "-o", mask.parent.parent]
    os.rename(photo, photo.with_name("other.png"))
    (folder / "mask.refdiff").mkdir()
    words[-1] = folder
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    assert mask.read_bytes() == before


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_something_else_in_the_way(segment: Callable[..., Any], photo: Path, kind: str) -> None:
    place = photo.with_name("photo.refdiff")
    place.write_text("mine") if kind == "file" else place.symlink_to(
        photo.parent if kind == "link" else "nowhere"
    )
    assert "was not written by refdiff" in segment(code=2).stderr
    assert place.is_file() or place.is_symlink()
    segment("--overwrite")
    assert names(place) == NAMES and photo.is_file()


# ---- a terminal, a pipe, an encoding ----------------------------------------------------------


def command(*words: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = ENVIRONMENT | options.pop("env", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(
        [sys.executable, "-m", "refdiff", *(os.fsencode(str(word)) for word in words)],
        env=environment,
        **options,
    )


def test_a_finished_run_is_no_failure(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    """An encoding that lacks the word, a full standard output, a name that is no text."""
    odd = photo.parent / os.fsdecode(b"ph\xe9to\x1b[31m.png")
    os.rename(photo, odd)
    words = ("segment", odd, "the 猫 café cat", "-m", tiny_model, "-o", tmp_path / "out")
    folder = tmp_path / "out" / (odd.stem + ".refdiff")
    for encoding in ("ascii", "cp1252"):
        for more in ((), ("--json",)):
            shown = CliRunner(charset=encoding).invoke(app, [*map(str, words), *more])
            assert (shown.exit_code, shown.stderr) == (0, "")
            assert b"\\u732b" in shown.stdout_bytes and b"\x1b" not in shown.stdout_bytes
        report = json.loads((folder / "report.json").read_bytes())
        assert json.loads(shown.stdout_bytes)["image"] == report["image"] == str(odd)
    assert names(folder) == NAMES
    with open("/dev/full", "wb") as full:
        shown = command(*words, stdout=full)
    assert shown.returncode == 0 and b"standard output cannot be written to" in shown.stderr
    assert names(tmp_path / "out") == [folder.name]


def test_a_command_that_only_prints_fails_in_a_sentence() -> None:
    with open("/dev/full", "wb") as full:
        shown = command("explain", "the cat", stdout=full)
    assert shown.returncode == 2
    assert shown.stderr == b"error: standard output: No space left on device.\n"
    read, write = os.pipe()
    os.close(read)
    shown = command("explain", "the cat", stdout=write)
    os.close(write)
    assert (shown.returncode, shown.stderr) == (141, b"")


def test_nothing_steers_the_terminal(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    steering = "\x1b]0;owned\x07\x9b31m\u202e"
    (tmp_path / "models" / "one").mkdir(parents=True)
    index = {"_class_name": steering, "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "models" / "one" / "model_index.json").write_text(json.dumps(index))
    odd = photo.with_name(f"a{steering}.png")
    os.rename(photo, odd)
    lines = [
        ("segment", odd, f"the cat {steering}", "-m", tiny_model, "-o", tmp_path / "out"),
        ("segment", odd, "the cat", "-m", tiny_model, "-o", tmp_path / "out", "--json"),
        ("segment", f"{odd}.gone", "the cat"),
        ("segment", odd, "the cat", "-m", steering),
        ("segment", odd, "the cat", "--word", steering),
        ("explain", f"the cat {steering}"),
        ("explain", f"the cat {steering}", "--json"),
        ("models", tmp_path / "models"),
        ("models", tmp_path / "models", "--json"),
    ]
    for words in lines:
        shown = CliRunner().invoke(app, [str(word) for word in words])
        for stream in (shown.stdout, shown.stderr):
            assert not set(stream) & set("\x1b\x07\x9b\u202e"), words
        assert shown.exception is None or isinstance(shown.exception, SystemExit)


def test_sigterm_leaves_nothing(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = ["segment", photo, "the cat", "-m", tiny_model, "-o", tmp_path / "out"]
    code = (
        "import os, signal\n"
        "real = os.rename\n"
        "def slow(*places):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    real(*places)\n"
        "os.rename = slow\n"
        "from refdiff.cli import main\n"
        "main()\n"
    )
    started = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env=ENVIRONMENT, capture_output=True
    )
    assert shown.returncode == 143 and b"Traceback" not in shown.stderr
    assert time.perf_counter() - started < 60
    assert names(tmp_path / "out") == []
