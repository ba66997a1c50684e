"""`refdiff label`: folders of pictures, kills, formats, what is looked at afterwards."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import refdiff
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.cli import app
from refdiff.labelling.journal import Journal
from refdiff.labelling.labeller import Labeller
from refdiff.labelling.pictures import batches, find_pictures, items_of, phrases
from refdiff.labelling.polygons import joined, polygons
from refdiff.labelling.records import Label, Record, decoded, encoded, union
from refdiff.settings import Settings

Run = Callable[..., Any]


def draw(path: Path, seed: int, size: tuple[int, int] = (96, 128)) -> None:
    """A disc somewhere on noise; size is (height, width)."""
    random = np.random.default_rng(seed)
    pixels = random.integers(120, 200, (*size, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    x, y = random.integers(20, 60, 2)
    ImageDraw.Draw(picture).ellipse((x, y, x + 30, y + 30), fill=(200, 30, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures of two sizes, one of them in a folder below."""
    for number in range(5):
        draw(tmp_path / "in" / f"photo{number}.png", number, (96, 128) if number < 3 else (128, 96))
    draw(tmp_path / "in" / "more" / "photo10.png", 10)
    return tmp_path / "in"


@pytest.fixture
def label(tiny_model: Path, folder: Path, tmp_path: Path) -> Run:
    """Runs the command on the small model into `out` in the test's folder."""

    def call(*words: object, code: int = 0) -> Any:
        given = ["label", folder, *words, "-m", tiny_model, "-o", tmp_path / "out"]
        result = CliRunner().invoke(app, [str(word) for word in given])
        assert result.exit_code == code, result.output
        return result

    return call


def journal_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "labels.jsonl").read_text().splitlines()[1:]
    return [line for line in map(json.loads, lines) if "name" in line]


def command(folder: Path, model: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "refdiff", "label", folder, "the red disc", "-m", model]
    return [str(word) for word in [*words, "-o", out, *more]]


def environment() -> dict[str, str]:
    home = Path(refdiff.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}


def wait_for(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    """Until the file has so many lines, or the process is over."""
    for _ in range(1200):
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        if process.poll() is not None:
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} has not {lines} lines after two minutes")


# ---- what to do --------------------------------------------------------------------------------


def test_a_text_is_cut_at_semicolons_and_lines() -> None:
    assert phrases("a person; the red car\n a dog ;; a person") == (
        "a person",
        "the red car",
        "a dog",
    )


def test_pictures_come_in_the_order_of_their_numbers_without_masks_and_output(folder: Path) -> None:
    draw(folder / "photo2-masklabel.png", 1)
    draw(folder / "out" / "photo7.png", 1)
    draw(folder / ".hidden" / "photo8.png", 1)
    (folder / "notes.md").write_text("no picture")
    found = [path.relative_to(folder).as_posix() for path in find_pictures(folder, folder / "out")]
    assert found == ["more/photo10.png", *(f"photo{number}.png" for number in range(5))]


def test_captions_say_what_to_mask_and_a_missing_one_is_named(folder: Path) -> None:
    pictures = find_pictures(folder)
    for number, path in enumerate(pictures[:-1]):
        path.with_suffix(".txt").write_text(f"a cat\nthe dog number {number}\n")
    with pytest.raises(ValueError, match=r"1 pictures have no caption .*photo4\.png"):
        items_of(folder, pictures, None)
    pictures[-1].with_suffix(".txt").write_text("a cat")
    assert items_of(folder, pictures, None)[1].texts == ("a cat", "the dog number 1")


def test_batches_are_of_one_size_and_hold_every_picture_once(folder: Path) -> None:
    (folder / "broken.png").write_text("no picture")
    items = items_of(folder, find_pictures(folder), "a cat")
    work = batches(items, 2)
    assert sorted(item.name for batch in work for item in batch) == sorted(i.name for i in items)
    sizes = [{Image.open(i.path).size for i in b if "broken" not in i.name} for b in work]
    assert all(len(size) <= 1 for size in sizes) and max(map(len, work)) == 2


# ---- the labeller ------------------------------------------------------------------------------


def test_a_batch_gives_what_each_picture_gives_alone(tiny_pipe: Any, folder: Path) -> None:
    labeller = Labeller(DiffusersCapture(tiny_pipe), None, Settings())
    items = items_of(folder, find_pictures(folder), "the red disc; a dog")
    alone = [labeller([item])[0] for item in items]
    for one, other in zip(labeller(items), alone, strict=True):
        assert one.name == other.name and one.size == other.size
        for mine, single in zip(one.labels, other.labels, strict=True):
            masks = [union(label.instances, one.size or (0, 0)) for label in (mine, single)]
            assert (masks[0] != masks[1]).mean() < 0.01
            assert mine.certainty == pytest.approx(single.certainty, abs=0.02)


def test_pictures_share_calls_of_vae_and_clip(folder: Path) -> None:
    models = refdiff.load_models("stickers")
    assert models.clip is not None
    names = ("photo0.png", "photo1.png", "photo2.png")
    items = items_of(folder, [folder / name for name in names], "the red balloon; a cat; left dog")
    labeller = Labeller(
        DiffusersCapture(models.pipe), models.clip, Settings.named("default", "stickers")
    )
    calls = {"vae": 0, "clip": 0}

    def counted(name: str) -> Callable[..., None]:
        return lambda *_: calls.update({name: calls[name] + 1})

    hooks = [
        models.pipe.vae.encoder.register_forward_pre_hook(counted("vae")),
        models.clip.model.visual.ln_post.register_forward_pre_hook(counted("clip")),
    ]
    alone = [record for item in items for record in labeller([item])]
    apart, calls["vae"], calls["clip"] = dict(calls), 0, 0
    together = labeller(items)
    for hook in hooks:
        hook.remove()
    assert not any(record.error for record in together)
    for one, other in zip(alone, together, strict=True):
        assert [label.instances for label in one.labels] == [
            label.instances for label in other.labels
        ]
        scores = [[label.score for label in record.labels] for record in (one, other)]
        assert np.allclose(*scores, atol=1e-3)
    assert (apart["vae"], calls["vae"]) == (3, 1)
    assert calls["clip"] < apart["clip"]


def test_a_clip_that_fails_is_said_of_every_picture(folder: Path) -> None:
    models = refdiff.load_models("stickers")
    assert models.clip is not None
    items = items_of(folder, sorted(folder.glob("photo[0-2].png")), "the red balloon")

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    hook = models.clip.model.visual.ln_post.register_forward_pre_hook(fail)
    labeller = Labeller(
        DiffusersCapture(models.pipe), models.clip, Settings.named("default", "stickers")
    )
    found = labeller(items)
    hook.remove()
    assert ["out of memory" in str(record.error) for record in found] == [True] * 3


def test_a_broken_picture_costs_itself_alone(tiny_pipe: Any, folder: Path) -> None:
    (folder / "photo1.png").write_bytes((folder / "photo1.png").read_bytes()[:300])
    records = Labeller(DiffusersCapture(tiny_pipe), None, Settings())(
        items_of(folder, find_pictures(folder), "the red disc")
    )
    assert [record.name for record in records if record.error] == ["photo1.png"]
    assert sum(len(record.labels) for record in records) == 5


# ---- the journal -------------------------------------------------------------------------------


def test_a_journal_forgets_a_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    record = Record("a.png", (1, 2), ("a cat",), (4, 4), (Label("a cat", "cat", 1, 1, 1, ()),))
    with Journal(tmp_path, {"model": "x"}) as journal:
        journal.add(record)
    with open(journal.path, "a") as file:
        file.write('{"name": "b.png", "stamp": [1')
    with Journal(tmp_path, {"model": "x"}) as journal:
        assert journal.read() == {"a.png": record}
        journal.add(Record("b.png", (1, 2), ("a cat",), error="gone"))
        assert set(journal.read()) == {"a.png", "b.png"}


def test_a_journal_made_with_another_model_or_in_use_is_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, {"model": "x"}),
        pytest.raises(refdiff.RefDiffError, match="Another run"),
    ):
        with Journal(tmp_path, {"model": "x"}):
            pass
    with Journal(tmp_path, {"model": "y"}) as journal:
        with pytest.raises(ValueError, match="made with model 'x', not 'y'"):
            journal.read()


# ---- formats -----------------------------------------------------------------------------------


def test_coco_is_read_by_pycocotools(label: Run, folder: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    label("the red disc; a dog")
    coco = COCO(str(tmp_path / "out" / "coco.json"))
    assert len(coco.getImgIds()) == 6
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["the red disc", "a dog"]
    known = {line["name"]: Record.from_dict(line) for line in journal_of(tmp_path / "out")}
    for note in coco.loadAnns(coco.getAnnIds()):
        image = coco.loadImgs(note["image_id"])[0]
        mask = coco.annToMask(note).astype(bool)
        assert mask.shape == (image["height"], image["width"]) and mask.sum() == note["area"]
        texts = {one.text: one for one in known[image["file_name"]].labels}
        name = coco.loadCats(note["category_id"])[0]["name"]
        own = [decoded(counts, mask.shape) for counts in texts[name].instances]
        assert any(np.array_equal(mask, one) for one in own)


@pytest.mark.parametrize("kind", ["masks", "kohya", "onetrainer"])
def test_masks_have_their_pictures_size_and_the_journals_pixels(
    label: Run, folder: Path, tmp_path: Path, kind: str
) -> None:
    before = {path: path.read_bytes() for path in find_pictures(folder)}
    label("the red disc; a dog", "-f", kind)
    where = {
        "masks": lambda name: [
            tmp_path / "out" / "masks" / f"{name}.{each}.png"
            for each in ("1-the-red-disc", "2-a-dog")
        ],
        "kohya": lambda name: [tmp_path / "out" / "kohya" / name],
        "onetrainer": lambda name: [folder / name.replace(".png", "-masklabel.png")],
    }[kind]
    for line in journal_of(tmp_path / "out"):
        record = Record.from_dict(line)
        assert record.size is not None
        groups = [one.instances for one in record.labels]
        groups = groups if kind == "masks" else [tuple(c for group in groups for c in group)]
        for path, counts in zip(where(record.name), groups, strict=True):
            mask = Image.open(path)
            assert mask.mode == "L"
            assert np.array_equal(np.asarray(mask) == 255, union(counts, record.size))
    assert before == {path: path.read_bytes() for path in find_pictures(folder)}


def test_yolo_polygons_cover_the_masks(label: Run, tmp_path: Path) -> None:
    label("the red disc; a dog", "-f", "yolo")
    base = tmp_path / "out" / "yolo"
    assert '1: "a dog"' in (base / "data.yaml").read_text()
    compared = 0
    for line in journal_of(tmp_path / "out"):
        record = Record.from_dict(line)
        height, width = record.size or (0, 0)
        drawn = Image.new("1", (4 * width, 4 * height))
        text = (base / "labels" / record.name).with_suffix(".txt").read_text()
        for row in text.splitlines():
            number, *corners = (float(word) for word in row.split())
            assert number in (0, 1) and len(corners) >= 6
            points = np.array(corners).reshape(-1, 2) * (4 * width, 4 * height)
            ImageDraw.Draw(drawn).polygon([tuple(p) for p in points], fill=1)
        counts = [c for one in record.labels for c in one.instances]
        mask = union(counts, (height, width))
        small = np.asarray(drawn.resize((width, height), Image.Resampling.NEAREST))
        if mask.sum() > 100:
            assert (small & mask).sum() / (small | mask).sum() > 0.9
            compared += 1
    assert compared


def test_parquet_holds_a_row_per_text(label: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    label("the red disc; a dog", "-f", "parquet")
    rows = parquet.read_table(tmp_path / "out" / "labels.parquet").to_pylist()
    assert Counter(row["text"] for row in rows) == {"the red disc": 6, "a dog": 6}
    for row in rows:
        mask = decoded(row["counts"], (row["height"], row["width"]))
        assert mask.sum() == row["area"] and mask.any() == row["found"]


def test_names_that_would_share_a_file_are_refused_before_any_work(
    label: Run, folder: Path, tmp_path: Path
) -> None:
    Image.open(folder / "photo1.png").save(folder / "photo1.jpg")
    said = label("a dog", "-f", "kohya", code=2).output
    assert "photo1.jpg" in said and "photo1.png" in said and not (tmp_path / "out").exists()
    label("a dog", "-f", "masks")


def test_a_polygon_follows_a_mask_and_joins_its_parts() -> None:
    rows, columns = np.mgrid[:80, :120]
    ring = (rows - 30) ** 2 + (columns - 40) ** 2 < 25**2
    bar = (rows > 60) & (rows < 75) & (columns > 80) & (columns < 110)
    parts = polygons(ring | bar)
    assert len(parts) == 2 and len(parts[1]) == 4
    assert sorted(map(tuple, parts[1].tolist())) == [(81, 61), (81, 75), (110, 61), (110, 75)]
    large = Image.new("1", (480, 320))
    ImageDraw.Draw(large).polygon([tuple(p) for p in joined(parts) * 4], fill=1)
    drawn = np.asarray(large.resize((120, 80), Image.Resampling.NEAREST))
    assert (drawn & (ring | bar)).sum() / (drawn | ring | bar).sum() > 0.95


def test_run_lengths_come_back_exactly() -> None:
    mask = np.random.default_rng(0).random((37, 53)) > 0.5
    assert np.array_equal(decoded(encoded(mask), (37, 53)), mask)


# ---- what others wrote -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("coco", "coco.json"),
        ("coco", "report.csv"),
        ("coco", "sheet.jpg"),
        ("yolo", "yolo/data.yaml"),
        ("yolo", "yolo/labels/photo1.txt"),
        ("kohya", "kohya/photo1.png"),
        ("masks", "masks/photo1.png.1-the-red-disc.png"),
        ("parquet", "labels.parquet"),
    ],
)
def test_nothing_of_the_users_is_replaced(label: Run, tmp_path: Path, kind: str, name: str) -> None:
    """Neither what was there before nor what was changed since; asked, it is."""
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    said = label("the red disc", "-f", kind, code=2).output
    assert name in said and "--overwrite" in said and path.read_bytes() == b"mine"
    assert not list(tmp_path.rglob(".refdiff-*")) and journal_of(tmp_path / "out") == []
    label("the red disc", "-f", kind, "--overwrite")
    assert path.read_bytes() != b"mine"
    label("the red disc", "-f", kind)


def test_a_mask_that_was_touched_up_is_kept_when_its_picture_changes(
    label: Run, folder: Path
) -> None:
    label("the red disc", "-f", "onetrainer")
    mask, other = folder / "photo1-masklabel.png", folder / "photo2-masklabel.png"
    before = other.read_bytes()
    mask.write_bytes(b"touched up")
    label("the red disc", "-f", "onetrainer")
    draw(folder / "photo2.png", 77)
    label("the red disc", "-f", "onetrainer")
    assert mask.read_bytes() == b"touched up" and other.read_bytes() != before
    draw(folder / "photo1.png", 78)
    said = label("the red disc", "-f", "onetrainer", code=2).output
    assert "photo1-masklabel.png" in said and mask.read_bytes() == b"touched up"


def test_bad_captions_and_journals(label: Run, folder: Path, tmp_path: Path) -> None:
    caption = folder / "photo0.txt"
    os.mkfifo(caption)
    assert "no file of at most" in label(code=2).output
    caption.unlink()
    caption.write_bytes(b"\xff\xfe")
    assert "save it as UTF-8" in label(code=2).output
    caption.write_bytes(b"a" * 200_000)
    assert "no file of at most" in label(code=2).output
    label("the red disc")
    journal = tmp_path / "out" / "labels.jsonl"
    head, *rest = journal.read_text().splitlines()
    record = next(line for line in rest if '"instances": ["' in line)
    counts = json.loads(record)["labels"][0]["instances"][0]
    bad = [
        "[" * 100_000,
        "7",
        '{"name": "x"}',
        record.replace(counts, counts + "00"),
        record.replace(counts, "\\u0000"),
    ]
    for line in bad:
        journal.write_text(f"{head}\n{line}\n")
        said = label("the red disc", code=2).stderr
        assert said.startswith("error: Line 2 of") and said.count("\n") == 1
    journal.unlink()
    os.mkfifo(journal)
    assert "no file" in label("the red disc", code=2).stderr


# ---- the report --------------------------------------------------------------------------------


def test_the_report_begins_with_errors_and_the_least_certain(
    label: Run, folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.png").write_text("no picture")
    said = label("the red disc", code=1).output
    assert "1 of 7 pictures could not be labelled" in said
    with open(tmp_path / "out" / "report.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["image"] == "broken.png" and "not a picture" in rows[0]["error"]
    sure = [float(row["certainty"]) for row in rows[1:]]
    assert len(sure) == 6 and sure == sorted(sure)
    sheet = Image.open(tmp_path / "out" / "sheet.jpg")
    assert sheet.width > 700


# ---- stopping and going on ---------------------------------------------------------------------


def test_a_second_run_labels_nothing_but_what_changed(
    label: Run, folder: Path, tmp_path: Path
) -> None:
    label("the red disc")
    first = journal_of(tmp_path / "out")
    label("the red disc")
    assert journal_of(tmp_path / "out") == first
    draw(folder / "photo3.png", 99)
    label("the red disc")
    assert [line["name"] for line in journal_of(tmp_path / "out")[6:]] == ["photo3.png"]


def test_another_format_is_written_without_a_model(
    label: Run, folder: Path, tmp_path: Path
) -> None:
    label("the red disc")
    model = tmp_path / "gone"
    shutil.copy(tmp_path / "out" / "labels.jsonl", tmp_path / "kept.jsonl")
    text = (tmp_path / "kept.jsonl").read_text().splitlines(keepends=True)
    head = json.loads(text[0])
    head["how"]["model"] = str(model)
    (tmp_path / "out" / "labels.jsonl").write_text(json.dumps(head) + "\n" + "".join(text[1:]))
    words = ["label", folder, "the red disc", "-m", model, "-o", tmp_path / "out", "-f", "kohya"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out" / "kohya").rglob("*.png"))) == 6


def test_a_file_of_the_users_own_is_kept(label: Run, folder: Path) -> None:
    mine = folder / "photo2-masklabel.png"
    mine.write_bytes(b"drawn by hand")
    assert "--overwrite" in label("a dog", "-f", "onetrainer", code=2).output
    assert mine.read_bytes() == b"drawn by hand"
    label("a dog", "-f", "onetrainer", "--overwrite")
    assert Image.open(mine).size == (128, 96)


def test_killed_twice_every_picture_is_labelled_once(tmp_path: Path, tiny_model: Path) -> None:
    for number in range(12):
        draw(tmp_path / "in" / f"photo{number}.png", number)
    out = tmp_path / "out"
    for lines in (3, 7):
        words = command(tmp_path / "in", tiny_model, out, "--batch", "1", "-f", "kohya")
        process = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL)
        wait_for(out / "labels.jsonl", lines, process)
        process.send_signal(signal.SIGKILL) if os.name != "nt" else process.kill()
        process.wait()
    assert len(journal_of(out)) < 12, "both runs were killed before the end"
    words = command(tmp_path / "in", tiny_model, out, "--batch", "1", "-f", "kohya")
    subprocess.run(words, env=environment(), check=True, capture_output=True)
    names = Counter(line["name"] for line in journal_of(out))
    assert names == {f"photo{number}.png": 1 for number in range(12)}
    assert len(list((out / "kohya").glob("*.png"))) == 12
    assert not (out / "labels.lock").exists()


# ---- Ray ---------------------------------------------------------------------------------------


def test_several_workers_without_ray_are_told_what_to_install(
    label: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "refdiff[ray]"' in " ".join(
        label("a dog", "--workers", "2", code=2).output.split()
    )


def workers_of(lines: Sequence[dict[str, Any]]) -> set[int]:
    return {int(line["worker"].rpartition(":")[2]) for line in lines}


def test_a_ray_worker_that_is_killed_costs_no_picture_and_none_comes_twice(
    tmp_path: Path, tiny_model: Path
) -> None:
    pytest.importorskip("ray")
    for number in range(60):
        draw(tmp_path / "in" / f"photo{number}.png", number)
    out = tmp_path / "out"
    words = command(tmp_path / "in", tiny_model, out, "--workers", "2", "--batch", "2")
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE)
    wait_for(out / "labels.jsonl", 3, process)
    lost = workers_of(journal_of(out)).pop()
    assert lost != process.pid, "the work is done by workers"
    os.kill(lost, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    seen = len(journal_of(out))
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors.decode()
    lines = journal_of(out)
    assert seen < 60, "it was killed in mid-run"
    assert Counter(line["name"] for line in lines) == {f"photo{n}.png": 1 for n in range(60)}
    assert all(line["error"] is None for line in lines)
    assert len(workers_of(lines)) >= 2
