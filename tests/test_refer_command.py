"""A whole evaluation: a model over a data set, killed and gone on with, scored and compared."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from refdiff.cli import app
from refdiff.evaluation.datasets import read_split
from refdiff.evaluation.predictions import Log, Prediction, read_predictions
from refdiff.masks.rle import decode, encode
from refdiff.models.catalogue import VARIABLE

from .releases import (
    Picture,
    coco_name,
    python2_pickle,
    sticker_pictures,
    write_grefcoco,
    write_refcoco,
)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return sticker_pictures(4)


@pytest.fixture
def data(tmp_path: Path, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    return write_grefcoco(tmp_path / "data", pictures)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def answered(folder: Path) -> dict[str, str]:
    found = {one["id"]: one["counts"] for one in lines(folder)}
    assert len(found) == len(lines(folder))
    return found


def test_a_run_writes_masks_figures_and_a_page(
    tmp_path: Path, data: Path, tiny_model: Path, tiny_clip: Path
) -> None:
    out = tmp_path / "out"
    words = ("eval", "refer", data, "-m", tiny_model, "--clip", tiny_clip, "-o", out, "--masks")
    found = run(*words)
    assert found.exit_code == 0, found.output
    assert "| **all** |" in found.stdout and "no target" in found.stdout
    split = read_split(data)
    masks = {one.id: decode(one.mask) for one in read_predictions(out, "grefcoco", "val")}
    assert set(masks) == {item.id for item in split.items}
    for item in split.items:
        png = np.asarray(Image.open(out / "masks" / f"{item.id}.png"))
        assert png.dtype == np.uint8 and (png == 255 * masks[item.id]).all()
        assert png.shape == item.size
    summary = json.loads((out / "summary.json").read_text())
    ious = [
        (masks[i.id] & decode(i.truth)).sum() / max(1, (masks[i.id] | decode(i.truth)).sum())
        for i in split.items
        if i.targets
    ]
    assert summary["figures"]["miou"] == pytest.approx(np.mean(ious), abs=1e-9)
    made = summary["run"]["made_by"]
    assert made["model"] == str(tiny_model) and made["settings"]["profile"] == "default"
    assert len(summary["run"]["hash"]) == 12 and summary["run"]["versions"]["torch"]
    assert len(summary["run"]["commit"] or "0" * 40) == 40
    assert summary["seconds_per_sentence"] > 0 and summary["run"]["hardware"]["device"] == "cpu"
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 6 and "http" not in page
    assert all(title in page for title in ("The best", "The median", "The worst"))
    # nothing is asked again, and another run is kept out
    before = (out / "predictions.jsonl").read_bytes()
    again = run(*words)
    assert again.exit_code == 0 and f"{len(masks)} of {len(masks)}" in again.stderr
    assert (out / "predictions.jsonl").read_bytes() == before
    other = run(*words, "--seed", 5)
    assert other.exit_code == 2 and "a run with other capture" in other.stderr
    assert (out / "predictions.jsonl").read_bytes() == before
    # the same figures without a model, from the lines and from the pictures
    for place in (out, out / "masks"):
        rescored = run("score", place, "--against", data, "--json", "-o", tmp_path / "scored")
        assert rescored.exit_code == 0, rescored.output
        assert json.loads(rescored.stdout)["figures"] == summary["figures"]
    same = run("score", "--compare", out, tmp_path / "scored", "--json")
    assert json.loads(same.stdout)["all"]["miou"]["difference"] == 0.0


def test_killed_three_times_nothing_is_lost_and_nothing_counts_twice(
    tmp_path: Path, data: Path, tiny_model: Path
) -> None:
    out = tmp_path / "out"
    words = ["eval", "refer", str(data), "-m", str(tiny_model), "-o", str(out)]
    total = len(read_split(data).items)
    seen: dict[str, str] = {}
    for kill in range(1, 4):
        child = subprocess.Popen(
            [sys.executable, "-m", "refdiff", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        goal = kill * total // 4
        file = out / "predictions.jsonl"
        while child.poll() is None and not (
            file.exists() and file.read_bytes().count(b"\n") >= goal
        ):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        whole = file.read_bytes()[: file.read_bytes().rfind(b"\n") + 1].decode()
        now = {one["id"]: one["counts"] for one in map(json.loads, whole.splitlines())}
        assert seen.items() <= now.items() and len(now) >= goal
        seen = now
        with open(file, "ab") as torn:  # as if the kill had come in the middle of a line
            torn.write(b'{"dataset": "grefcoco", "split": "val", "id": "0", "si')
    assert len(seen) < total
    finished = run(*words)
    assert finished.exit_code == 0, finished.output
    found = answered(out)
    assert set(found) == {item.id for item in read_split(data).items}
    assert seen.items() <= found.items()
    straight = tmp_path / "straight"
    assert run(*words[:-1], straight).exit_code == 0
    assert answered(straight) == found
    one, two = (json.loads((f / "summary.json").read_text())["figures"] for f in (out, straight))
    assert one == two


def test_missing_pictures_are_named_counted_and_can_come_later(
    tmp_path: Path, data: Path, tiny_model: Path
) -> None:
    out, away = tmp_path / "out", tmp_path / "away.jpg"
    photo = data / "images" / "train2014" / coco_name(1)
    shutil.move(photo, away)
    words = ("eval", "refer", data, "-m", tiny_model, "-o", out, "--json")
    summary = json.loads(run(*words).stdout)
    lost = summary["lost_pictures"]
    assert list(lost["missing"]) == [coco_name(1)] and lost["sentences"] > 0
    assert any(coco_name(1) in warning for warning in summary["warnings"])
    photo.write_bytes(away.read_bytes()[:-400])  # its header is whole, its end is not
    broken = json.loads(run(*words).stdout)
    assert list(broken["lost_pictures"]["unreadable"]) == [coco_name(1)]
    assert broken["figures"] == summary["figures"]
    shutil.move(away, photo)
    whole = json.loads(run(*words).stdout)
    assert whole["figures"]["n"] == summary["figures"]["n"] + lost["sentences"]
    assert whole["lost_pictures"]["sentences"] == 0 and not whole["warnings"]


def test_given_masks_and_a_part_of_the_split(
    tmp_path: Path, pictures: list[Picture], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    data = write_refcoco(tmp_path / "data", pictures)
    folder = tmp_path / "sam"
    folder.mkdir()
    for number, picture in enumerate(pictures[:-1]):
        np.savez(folder / f"{Path(coco_name(number)).stem}.npz", masks=picture.objects)
    base = ("eval", "refer", data, "-m", tiny_model, "--every", 2, "--first", 4, "--json")
    objects = json.loads(run(*base, "--proposals", "objects", "-o", tmp_path / "a").stdout)
    assert objects["figures"]["n"] == 4 and objects["selection"] == {"first": 4, "every": 2}
    split = read_split(data)
    by_id = {item.id: item for item in split.items}
    for one in read_predictions(tmp_path / "a", "refcoco", "val"):
        number = int(Path(by_id[one.id].image).stem.split("_")[-1])
        mask = decode(one.mask)
        assert any((mask == thing).all() for thing in pictures[number].objects)
    given = run(*base, "--proposals", folder, "-o", tmp_path / "b")
    assert given.exit_code == 0, given.output
    assert json.loads(given.stdout)["figures"] == objects["figures"]
    rescored = run("score", tmp_path / "a", "--against", data, "--json")
    assert json.loads(rescored.stdout)["figures"] == objects["figures"]  # the same part


@pytest.mark.parametrize("clip", [True, False])
def test_the_table_has_a_row_for_everything(
    tmp_path: Path,
    pictures: list[Picture],
    tiny_model: Path,
    tiny_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    clip: bool,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    data, out = write_refcoco(tmp_path / "data", pictures), tmp_path / "out"
    words = ["eval", "refer", data, "-m", tiny_model, "--first", 1, "--table", "-o", out]
    words += ["--clip", tiny_clip] if clip else []
    found = run(*words)
    assert found.exit_code == 0, found.output
    table = json.loads((out / "table.json").read_text())
    halves = ("generative", "clip", "both") if clip else ("generative",)
    want = {
        (profile, half, kind)
        for profile in ("default", "paper", "official")
        for half in halves
        for kind in ("own", "objects")
    }
    rows = table["rows"]
    assert {(row["profile"], row["halves"], row["proposals"]) for row in rows} == want
    assert len({row["hash"] for row in rows}) == len(rows) == len(want)
    for row in rows:
        assert row["seconds_per_sentence"] > 0 and row["figures"]["n"] == 1
        assert row["peak_memory_mib"] is None or row["peak_memory_mib"] > 10
        assert row["paper_miou"] is None  # a part of a split is not the paper's
    assert "Run on:" in found.stdout and found.stdout.count("proposals |") == len(want)


def test_printed_figures_stand_by_the_real_split_alone(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    """The paper's 37.21 beside RefCOCO val with SAM's masks, and beside no miniature or part."""
    from refdiff.commands.refer_table import Row, figures_of_row, to_markdown
    from refdiff.evaluation.datasets import Selection
    from refdiff.evaluation.referring_metrics import figures
    from refdiff.evaluation.summary import summarise_split

    small = read_split(write_refcoco(tmp_path / "data", pictures))
    real = replace(small, total=10834)
    summary = summarise_split(real, [], {"hash": "x"})
    assert summary["paper"] == {"oiou": 0.352, "miou": 0.3721} and figures([])["n"] == 0
    row = Row("paper", "both", "folder/of/sam")
    made = figures_of_row(row, summary, real)
    own = figures_of_row(Row("paper", "generative", "own"), summary, real)
    assert made["paper_miou"] == 0.3721 and own["paper_miou"] == 0.2153
    table = {"dataset": "refcoco", "split": "val", "rows": [made], "hardware": {"device": "cpu"}}
    assert "| 37.21 |" in to_markdown(table)
    for other in (small, replace(real, selection=Selection(5)), replace(real, total=10833)):
        assert figures_of_row(row, summary, other)["paper_miou"] is None
        assert summarise_split(other, [], {"hash": "x"})["paper"] is None
    assert figures_of_row(Row("default", "both", "sam"), summary, real)["paper_miou"] is None


# ---- somebody's masks ------------------------------------------------------------------------


def test_a_folder_of_masks_is_scored_and_what_is_missing_counts_as_empty(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    data = write_grefcoco(tmp_path / "data", pictures)
    split = read_split(data)
    folder = tmp_path / "masks"
    folder.mkdir()
    for item in split.items[1:]:
        Image.fromarray(decode(item.truth).astype(np.uint8) * 255).save(folder / f"{item.id}.png")
    found = run("score", folder, "--against", data, "--json", "-o", tmp_path / "out")
    summary = json.loads(found.stdout)
    count, targeted = len(split.items), sum(bool(item.targets) for item in split.items)
    assert split.items[0].targets
    assert summary["figures"]["miou"] == pytest.approx((targeted - 1) / targeted)
    assert summary["figures"]["giou"] == pytest.approx((count - 1) / count)
    assert summary["figures"]["unanswered"] == 1 and summary["figures"]["n_acc"] == 1.0
    assert any("1 sentences have no mask" in warning for warning in summary["warnings"])
    assert not list(folder.glob("*.json"))


def bad_inputs(folder: Path, data: Path) -> dict[str, tuple[list[object], str]]:
    """Words on the command line, and what is said about them."""
    masks = folder / "masks"
    masks.mkdir()
    split = read_split(data)
    Image.new("L", (9, 9)).save(masks / f"{split.items[0].id}.png")
    strangers = folder / "strangers"
    strangers.mkdir()
    Image.new("L", (9, 9)).save(strangers / "nobody.png")
    broken = folder / "broken"
    broken.mkdir()
    good = '{"dataset": "grefcoco", "split": "val", "id": "0", "size": [5, 5], "counts": "zz"}\n'
    (broken / "predictions.jsonl").write_text(good)
    garbled = folder / "garbled"
    garbled.mkdir()
    (garbled / "predictions.jsonl").write_text("what\n")
    hostile = folder / "hostile" / "refcoco"
    hostile.mkdir(parents=True)
    (hostile / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    (hostile / "instances.json").write_text("{}")
    (folder / "scores").mkdir()
    (folder / "scores" / "scores.csv").write_text("id,image\n1,2\n")
    refer: list[object] = ["eval", "refer"]
    return {
        "no such folder": ([*refer, folder / "nowhere"], "There is no"),
        "an empty folder": ([*refer, folder / "scores"], "no data set"),
        "a split that is not there": ([*refer, data, "--split", "testC"], "'testC'"),
        "a data set that is not there": ([*refer, data, "--dataset", "coco"], "no 'coco'"),
        "no pictures": ([*refer, data, "--images", folder / "scores"], "None of the"),
        "no such pictures": ([*refer, data, "--images", folder / "x"], "check --images"),
        "a file as pictures": (
            [*refer, data, "--images", folder / "scores" / "scores.csv"],
            "neither a folder nor a whole zip",
        ),
        "halves": ([*refer, data, "--halves", "left"], "--halves is 'left'"),
        "proposals": ([*refer, data, "--proposals", "sam"], "--proposals is 'sam'"),
        "a profile": ([*refer, data, "-p", "best"], "The profile is 'best'"),
        "a model": ([*refer, data, "-m", folder / "scores"], "scores"),
        "a hostile pickle": ([*refer, folder / "hostile"], "nothing of it was read"),
        "nothing to score": (["score", folder], "are wanted"),
        "nothing in the folder": (["score", data, "--against", data], "holds neither"),
        "masks of other sentences": (["score", strangers, "--against", data], "No mask in"),
        "masks of another size": (["score", masks, "--against", data], "(9, 9)"),
        "runs that are none": (["score", broken, "--against", data], "run lengths"),
        "lines that are none": (["score", garbled, "--against", data], "Line 1"),
        "scores that are none": (["score", "--compare", folder / "scores", folder], "scores.csv"),
        "one too many": (["score", data, "--compare", data, data], "neither DIR"),
        "tune: a name": (["tune", "stickers", "-o", "x.toml"], "NAME.refdiff.toml"),
        "tune: no data": (["tune", "stickers", "--data", folder / "nowhere"], "There is no"),
    }


def test_bad_input_is_told_in_one_sentence_and_nothing_is_written(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, work = tmp_path / "bad", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    inputs = bad_inputs(folder, data)
    monkeypatch.chdir(work)
    assert len(inputs) >= 20
    before = sorted(tmp_path.rglob("*"))
    for name, (words, said) in inputs.items():
        found = run(*words)
        errors = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
        assert found.exit_code == 2 and len(errors) == 1, (name, found.output)
        assert said in errors[0] and errors[0].endswith("."), (name, errors)
        assert "unexpected" not in errors[0] and "Traceback" not in found.output, name
        assert sorted(tmp_path.rglob("*")) == before, name


# ---- the log ---------------------------------------------------------------------------------


def test_figures_replace_nothing_of_the_users(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    """Whoever scores a folder of masks may keep a summary or a report of their own there."""
    run("eval", "refer", data, "-m", tiny_model, "-o", tmp_path / "run", "--masks", "--first", 3)
    masks = tmp_path / "run" / "masks"
    for name in ("summary.json", "summary.md", "report.html", "scores.csv"):
        (masks / name).write_text("mine")
        scored = run("score", masks, "--against", data)
        assert scored.exit_code == 2 and f"{name}' was not written by refdiff" in scored.stderr
        begun = run("eval", "refer", data, "-m", tiny_model, "-o", masks)
        assert begun.exit_code == 2 and (masks / name).read_text() == "mine"
        (masks / name).unlink()
    for _ in range(2):
        assert run("score", masks, "--against", data).exit_code == 0
    (tmp_path / "table.md").write_text("mine")
    table = run("eval", "refer", data, "-m", tiny_model, "-o", tmp_path, "--table")
    assert table.exit_code == 2 and (tmp_path / "table.md").read_text() == "mine"


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    from refdiff.errors import RefDiffError

    with Log(tmp_path, "refcoco", "val") as log:
        with pytest.raises(RefDiffError, match="Another run"):
            Log(tmp_path, "refcoco", "val")
        log.add(Prediction("1", encode(np.ones((3, 4), bool))))
    with Log(tmp_path, "refcoco", "testA") as other:
        assert other.done == set()
        other.add(Prediction("1", encode(np.zeros((3, 4), bool))))
    with Log(tmp_path, "refcoco", "val") as log:
        assert log.done == {"1"}
    assert Counter(one["split"] for one in lines(tmp_path)) == {"val": 1, "testA": 1}


@pytest.mark.parametrize("end", [1, 10, 60, 10**9])
def test_a_torn_line_is_cut_off_and_a_whole_one_kept(tmp_path: Path, end: int) -> None:
    with Log(tmp_path, "refcoco", "val") as log:
        for id in "123":
            log.add(Prediction(id, encode(np.ones((3, 4), bool)), text="ü"))
    file = tmp_path / "predictions.jsonl"
    whole = file.read_bytes()
    torn = whole.splitlines(keepends=True)[2][:end].rstrip(b"\n")
    file.write_bytes(whole + torn)
    assert [one.id for one in read_predictions(tmp_path, "refcoco", "val")] == ["1", "2", "3"]
    with Log(tmp_path, "refcoco", "val") as log:
        assert log.done == {"1", "2", "3"}
        log.add(Prediction("4", encode(np.ones((3, 4), bool))))
    assert [one["id"] for one in lines(tmp_path)] == ["1", "2", "3", "4"]


# ---- size ------------------------------------------------------------------------------------

SENTENCES, PER_PICTURE = 10_000, 4


def write_large(root: Path) -> Path:
    """10,000 sentences over 2,500 pictures of COCO's size with a dozen objects each."""
    random = np.random.default_rng(0)
    folder, out = root / "refcoco", root / "out"
    folder.mkdir(parents=True)
    out.mkdir()
    refs, annotations, images = [], [], []
    for number in range(SENTENCES // PER_PICTURE):
        images.append({"id": number, "file_name": coco_name(number), "height": 480, "width": 640})
        for index in range(12):
            middle = random.uniform((80, 80), (560, 400))
            turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            points = middle + 60 * np.stack([np.cos(turns), np.sin(turns)], 1)
            shape = [points.round(2).flatten().tolist()]
            one = {"id": 100 * number + index, "image_id": number, "segmentation": shape}
            annotations.append(one | {"iscrowd": 0, "category_id": 1})
        said = [
            {"raw": f"the man on the left {n}", "sent": "", "sent_id": PER_PICTURE * number + n}
            for n in range(PER_PICTURE)
        ]
        refs.append({"ref_id": number, "ann_id": 100 * number, "image_id": number})
        refs[-1] |= {"split": "val", "sentences": said}
    (folder / "refs(unc).p").write_bytes(python2_pickle(refs))
    plain = {"images": images, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(plain))
    masks = [encode(random.random((480, 640)) < 0.5) for _ in range(3)]
    rows, columns = np.mgrid[:480, :640]
    masks += [encode((rows - 200) ** 2 + (columns - x) ** 2 < 9000) for x in range(100, 500, 10)]
    with Log(out, "refcoco", "val") as log:
        for id in range(SENTENCES):
            log.add(Prediction(str(id), masks[3 + id % 40], f"man {id}", ("place",), 0.5, 0.1))
    return root


def peak_mib(*words: object) -> float:
    """Most memory of a refdiff command in a process of its own.

    As the kernel counts it since that process began: what rusage tells has the parent's in it.
    """
    code = (
        "import sys\n"
        "from refdiff.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "finally:\n    print(open('/proc/self/status').read(), file=sys.stderr)\n"
    )
    words = tuple(map(str, words))
    child = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    peak = next(line for line in child.stderr.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def test_scoring_loads_neither_a_model_nor_what_runs_one(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    data = write_grefcoco(tmp_path / "data", pictures[:1])
    masks = tmp_path / "masks"
    masks.mkdir()
    for item in read_split(data).items:
        Image.fromarray(decode(item.truth).astype(np.uint8)).save(masks / f"{item.id}.png")
    code = (
        "import sys; from typer.testing import CliRunner; from refdiff.cli import app\n"
        "found = CliRunner().invoke(app, sys.argv[1:]); print(found.exit_code, found.output)\n"
        "sys.exit(found.exit_code or ('torch' in sys.modules and 9))"
    )
    words = ["score", str(masks), "--against", str(data), "-o", str(tmp_path / "out")]
    child = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_sentences_are_scored_in_little_memory(tmp_path: Path) -> None:
    root = write_large(tmp_path)
    assert peak_mib("score", root / "out", "--against", root, "--json") <= 500
