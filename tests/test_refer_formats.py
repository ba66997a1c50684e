"""Referring data sets are read as they were written, by a writer that shares nothing with us."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refdiff.evaluation.datasets import DataSplit, Selection, find_release, read_split
from refdiff.evaluation.datasets.published import count_warning
from refdiff.evaluation.json_stream import elements
from refdiff.evaluation.run import check_pictures
from refdiff.evaluation.unpickle import load_plain
from refdiff.masks.rle import decode

from .releases import (
    Picture,
    python2_pickle,
    refs_of,
    sticker_pictures,
    write_grefcoco,
    write_instances,
    write_jxu124,
    write_lmms,
    write_phrasecut,
    write_pictures,
    write_refcoco,
    zip_folder,
)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return sticker_pictures(6)


def wanted(pictures: list[Picture], many: bool = False) -> dict[str, tuple[str, np.ndarray, int]]:
    """What every sentence of a refs file says and means, by its id."""
    found = {}
    for ref in refs_of(pictures, many, ("val",)):
        anns = ref["ann_id"] if many else [ref["ann_id"]]
        meant = tuple(int(one) % 100 for one in anns if one != -1)
        truth = pictures[ref["image_id"]].truth(meant)
        for said in ref["sentences"]:
            text = said["raw"].strip()
            found[str(said["sent_id"])] = (text, truth, len(meant))
    return found


def assert_read(split: DataSplit, want: dict[str, tuple[str, np.ndarray, int]]) -> None:
    assert {item.id for item in split.items} == set(want) and split.total == len(want)
    for item in split.items:
        text, truth, targets = want[item.id]
        assert (item.text, item.size, item.targets) == (text, truth.shape, targets)
        assert (decode(item.truth) == truth).all(), item.id


# ---- what the releases say -------------------------------------------------------------------


def test_refcoco_is_read_as_it_was_written(tmp_path: Path, pictures: list[Picture]) -> None:
    root = write_refcoco(tmp_path, pictures)
    split = read_split(root)
    assert (split.dataset, split.split, split.lossy) == ("refcoco", "val", "")
    assert_read(split, wanted(pictures))
    order = [item.image for item in split.items]
    assert order == sorted(order)  # sentences of one picture together
    assert_read(read_split(root / "refcoco"), wanted(pictures))
    assert_read(read_split(root / "refcoco" / "refs(unc).p"), wanted(pictures))


@pytest.mark.parametrize(
    ("folder", "by", "name"),
    [
        ("refcoco+", "unc", "refcoco+"),
        ("refcocop", "unc", "refcoco+"),
        ("refcocog", "umd", "refcocog-umd"),
        ("refcocog", "google", "refcocog-google"),
        ("refclef", "berkeley", "refclef-berkeley"),
        ("Ref-ZOM", "final", "ref-zom"),
    ],
)
def test_data_sets_are_known_by_their_folders(
    tmp_path: Path, pictures: list[Picture], folder: str, by: str, name: str
) -> None:
    root = write_refcoco(tmp_path, pictures[:2], folder, by)
    assert find_release(root)[0] == name
    assert read_split(root, dataset=name).dataset == name


def test_one_of_several_is_chosen_by_name(tmp_path: Path, pictures: list[Picture]) -> None:
    write_refcoco(tmp_path, pictures[:2], "refcocog", "umd")
    file = tmp_path / "refcocog" / "refs(google).p"
    file.write_bytes(python2_pickle(refs_of(pictures[:1], False, ("val",))))
    with pytest.raises(ValueError, match=r"refcocog-google, refcocog-umd.*--dataset"):
        read_split(tmp_path)
    assert (
        read_split(tmp_path, dataset="refcocog-google").total
        < read_split(tmp_path, dataset="refcocog-umd").total
    )


def test_grefcoco_has_several_targets_and_none(tmp_path: Path, pictures: list[Picture]) -> None:
    split = read_split(write_grefcoco(tmp_path, pictures))
    assert split.dataset == "grefcoco"
    assert_read(split, wanted(pictures, many=True))
    assert {0, 1} < {item.targets for item in split.items}


def test_grefcoco_comes_as_a_pickle_too(tmp_path: Path, pictures: list[Picture]) -> None:
    root = write_grefcoco(tmp_path, pictures)
    refs = refs_of(pictures, True, ("val",))
    (root / "grefcoco" / "grefs(unc).json").unlink()
    (root / "grefcoco" / "grefs(unc).p").write_bytes(pickle.dumps(refs_plain(refs), 4))
    assert_read(read_split(root), wanted(pictures, many=True))


def refs_plain(refs: list[dict[str, Any]]) -> Any:
    return json.loads(json.dumps(refs))


def test_splits_follow_the_refer_api(tmp_path: Path, pictures: list[Picture]) -> None:
    splits = ("train", "val", "testA", "testB", "testAB")
    root = write_refcoco(tmp_path, pictures, splits=splits)
    refs = refs_of(pictures, False, splits)

    def count(*own: str) -> int:
        return sum(len(ref["sentences"]) for ref in refs if ref["split"] in own)

    assert read_split(root, "val").total == count("val")
    assert read_split(root, "testA").total == count("testA", "testAB")
    assert read_split(root, "testB").total == count("testB", "testAB")
    assert read_split(root, "test").total == count("testA", "testB", "testAB")
    with pytest.raises(ValueError, match=r"'minival'.*testA, testAB, testB, train, val"):
        read_split(root, "minival")


def test_phrasecut_is_drawn_as_its_own_scorer_draws(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    want = {
        f"{number}__{index}": (text, picture.truth(meant), len(meant))
        for number, picture in enumerate(pictures)
        for index, (text, meant) in enumerate(picture.said)
        if meant
    }
    for sizes in (True, False):
        root = write_phrasecut(tmp_path / str(sizes), pictures, sizes)
        split = read_split(root, "test")
        assert split.dataset == "phrasecut"
        assert_read(split, want)
        assert len(check_pictures(split)[0]) == len(want)


def test_the_mirror_without_pictures(tmp_path: Path, pictures: list[Picture]) -> None:
    root = write_jxu124(tmp_path, pictures)
    refs = refs_of(pictures, False, ("val", "testA"))
    for name in ("val", "testA"):
        ids = {str(s["sent_id"]) for r in refs if r["split"] == name for s in r["sentences"]}
        split = read_split(root, name)
        assert split.dataset == "hf-jxu124" and not split.lossy
        assert_read(split, {id: one for id, one in wanted(pictures).items() if id in ids})
        assert len(check_pictures(split)[0]) == len(ids)


def test_the_mirror_with_pictures_is_flagged(tmp_path: Path, pictures: list[Picture]) -> None:
    root, truth = write_lmms(tmp_path, pictures)
    split = read_split(root)
    assert split.dataset == "hf-lmms" and "one polygon" in split.lossy
    assert {item.id for item in split.items} == {*truth, *(f"{id}-2" for id in truth)}
    for item in split.items:
        assert (decode(item.truth) == truth[item.id.removesuffix("-2")]).all()
        number = int(item.id.split("_")[0])
        image = split.pictures.read(item.image)
        assert (image.height, image.width) == pictures[number].size == item.size
        near = np.asarray(image, int) - np.asarray(pictures[number].image, int)
        assert abs(near).mean() < 8


def test_scenes_are_a_data_set_too(pictures: list[Picture]) -> None:
    from refdiff.stickers import DATA

    split = read_split(DATA / "validation", selection=Selection(first=8))
    assert split.split == "validation" and split.total == 640 and len(split.items) == 8
    said = [one.text for one in split.items]
    assert said == [text for picture in pictures for text, _ in picture.said][:8]
    assert all(item.objects for item in split.items)


def test_parts_of_parts(tmp_path: Path, pictures: list[Picture]) -> None:
    root = write_refcoco(tmp_path, pictures)
    whole = [item.id for item in read_split(root).items]
    every = read_split(root, selection=Selection(every=3))
    assert {item.id for item in every.items} == set(whole[::3]) and every.total == len(whole)
    few = read_split(root, selection=Selection(first=2, every=3))
    assert {item.id for item in few.items} == set(whole[::3][:2]) and few.total == len(whole)


def test_other_objects_of_the_picture_are_kept_when_asked(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    split = read_split(write_refcoco(tmp_path, pictures), everything=True)
    for item in split.items:
        number = int(Path(item.image).stem.split("_")[-1])
        assert (np.stack([decode(one) for one in item.objects]) == pictures[number].objects).all()


def test_annotations_may_stand_before_their_pictures(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    root = write_refcoco(tmp_path, pictures)
    file = root / "refcoco" / "instances.json"
    plain = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(plain.items()))))
    assert_read(read_split(root), wanted(pictures))


def test_counts_that_differ_from_the_published_ones_are_told() -> None:
    assert count_warning("refcoco", "val", 10834) is None
    assert "10834" in str(count_warning("refcoco", "val", 10833))
    assert count_warning("hf-lmms", "val", 3) is None


# ---- where the pictures are ------------------------------------------------------------------


def test_pictures_are_found_wherever_they_are_kept(tmp_path: Path, pictures: list[Picture]) -> None:
    root = write_refcoco(tmp_path / "data", pictures, images="elsewhere/deep/below")
    count = len(read_split(root).items)
    assert len(check_pictures(read_split(root))[0]) == count  # found by walking the data
    far = tmp_path / "far"
    (root / "elsewhere").rename(far)
    with pytest.raises(ValueError, match=r"None of the 6 pictures.*--images"):
        check_pictures(read_split(root))
    (tmp_path / "link").symlink_to(far / "deep", target_is_directory=True)
    (far / "deep" / "loop").symlink_to(far, target_is_directory=True)
    assert len(check_pictures(read_split(root, images=[tmp_path / "link"]))[0]) == count
    zip_folder(far / "deep" / "below", tmp_path / "train2014.zip")
    zipped = read_split(root, images=[tmp_path / "train2014.zip"])
    assert len(check_pictures(zipped)[0]) == count
    for item in zipped.items[:2]:
        number = int(Path(item.image).stem.split("_")[-1])
        assert zipped.pictures.read(item.image).size == pictures[number].image.size


def test_no_name_reaches_outside_the_folders(tmp_path: Path, pictures: list[Picture]) -> None:
    root = write_refcoco(tmp_path / "data", pictures[:1])
    pictures[0].image.save(tmp_path / "secret.jpg")
    file = root / "refcoco" / "instances.json"
    text = file.read_text().replace("COCO_train2014_000000000000.jpg", "../../../secret.jpg")
    file.write_text(text)
    split = read_split(root)
    assert not split.pictures.has("../../../secret.jpg")
    assert not split.pictures.has(str(tmp_path / "secret.jpg"))


def test_missing_and_broken_pictures_are_named_and_counted(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    root = write_refcoco(tmp_path, pictures)
    folder = root / "images/mscoco/images/train2014"
    split = read_split(root)
    gone, broken = (sorted({item.image for item in split.items})[i] for i in (1, 2))
    (folder / gone).unlink()
    (folder / broken).write_bytes(b"no picture")
    kept, lost = check_pictures(read_split(root))
    assert list(lost.missing) == [gone] and list(lost.unreadable) == [broken]
    assert lost.sentences + len(kept) == len(split.items)
    assert not {gone, broken} & {item.image for item in kept}


def test_pictures_of_another_size_are_refused(tmp_path: Path, pictures: list[Picture]) -> None:
    root = write_refcoco(tmp_path, pictures)
    small = [Picture(one.image.resize((64, 64)), one.objects, one.said) for one in pictures]
    write_pictures(root / "images/mscoco/images/train2014", small)
    with pytest.raises(ValueError, match=r"\(64, 64\).*\(256, 256\).*unscaled"):
        check_pictures(read_split(root))


# ---- pickles ---------------------------------------------------------------------------------


class Hostile:
    """Would make a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_python2_pickles_are_read(tmp_path: Path) -> None:
    value = [{"a": [1, 300, -1], "ü": "é"}, {}, []]
    for name, data in (
        ("two", python2_pickle([{"a": [1, 300, -1], "ü": "é"}, {}, []])),
        *((str(number), pickle.dumps(value, number)) for number in range(6)),
    ):
        file = tmp_path / name
        file.write_bytes(data)
        assert load_plain(file) == value, name


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    **{
        f"reduce, protocol {number}": lambda file, number=number: pickle.dumps(
            [Hostile(file)], number
        )
        for number in range(6)
    },
    "a name alone": lambda file: b"cos\nsystem\n.",
    "a name that is called": lambda file: b"cos\nsystem\n(S'touch x'\ntR.",
    "inst": lambda file: b"(S'touch x'\nios\nsystem\n.",
    "obj": lambda file: b"(cos\nsystem\nS'touch x'\no.",
    "stack global": lambda file: b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "newobj": lambda file: b"\x80\x02cbuiltins\nlist\n)\x81.",
    "newobj_ex": lambda file: b"\x80\x04cbuiltins\nlist\n)}\x92.",
    "build": lambda file: b"\x80\x02}}b.",
    "extension": lambda file: b"\x80\x02\x82\x01.",
    "persistent": lambda file: b"Pabc\n.",
    "persistent, binary": lambda file: b"K\x01Q.",
    "a set": lambda file: b"\x80\x04\x8f.",
    "out of band": lambda file: b"\x80\x05\x97.",
    "a memo that eats memory": lambda file: b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".",
    "a length that eats memory": lambda file: b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "cut short": lambda file: python2_pickle([{"a": [1, 2, 3]}])[:-4],
    "nothing": lambda file: b"",
    "text": lambda file: b"refs\n",
    "an empty stack": lambda file: b"\x80\x02.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path: Path, name: str) -> None:
    made, file = tmp_path / "made", tmp_path / "refs(unc).p"
    file.write_bytes(HOSTILE[name](made))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p") as caught:
        load_plain(file)
    said = str(caught.value)
    assert not made.exists() and not Path("x").exists()
    assert said.endswith(".") and "\n" not in said and len(said) < 400


# ---- JSON a piece at a time ------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 200_000])
def test_large_json_comes_in_pieces(tmp_path: Path, length: int) -> None:
    plain = {"info": {"x": [1, [2]]}, "images": [{"id": n, "name": "ü" * 9} for n in range(length)]}
    plain |= {"annotations": [3, "four", None, [5]], "rest": 1.5e3}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(plain, ensure_ascii=False, indent=length == 7 or None))
    found = list(elements(file, "images", "annotations"))
    want = [("images", one) for one in plain["images"]]
    assert found == want + [("annotations", one) for one in plain["annotations"]]


def test_json_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    text = json.dumps({"images": [{"id": 1, "n": "a"}], "annotations": [[1, 2]]})
    for end in range(len(text)):
        file.write_text(text[:end])
        with pytest.raises(ValueError, match=r"instances\.json"):
            list(elements(file, "images", "annotations"))


# ---- what is wrong is said in one sentence ---------------------------------------------------


def edited(edit: Callable[[Any], None], name: str = "instances.json") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        plain = json.loads(file.read_text())
        edit(plain)
        file.write_text(json.dumps(plain))

    return change


def refs_with(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        refs = refs_plain(refs_of(sticker_pictures(2), False, ("val",)))
        refs[0].update(changes)
        (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))

    return change


def first(plain: Any, key: str, value: Any) -> None:
    for one in plain["annotations"]:
        one[key] = value


def size(plain: Any, value: Any) -> None:
    for one in plain["images"]:
        one["height"] = value


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no instances": (lambda d: (d / "instances.json").unlink(), "no instances.json"),
    "instances cut": (lambda d: (d / "instances.json").write_text('{"images": ['), "whole JSON"),
    "instances a list": (lambda d: (d / "instances.json").write_text("[]"), "wanted '{'"),
    "instances not text": (lambda d: (d / "instances.json").write_bytes(b"\xff\xfe"), "UTF-8"),
    "instances nested": (
        lambda d: (d / "instances.json").write_text('{"images": ' + "[" * 100_000),
        "nested|whole JSON",
    ),
    "no pictures": (edited(lambda p: p.update(images=[])), "no picture"),
    "no annotations": (edited(lambda p: p.update(annotations=[])), "no annotation"),
    "height text": (edited(lambda p: size(p, "256")), 'needs "height"'),
    "height zero": (edited(lambda p: size(p, 0)), "wanted 1 to 65535"),
    "height huge": (edited(lambda p: size(p, 10**9)), "wanted 1 to 65535"),
    "no segmentation": (edited(lambda p: first(p, "segmentation", None)), 'needs "segmentation"'),
    "polygon odd": (edited(lambda p: first(p, "segmentation", [[1, 2, 3]])), "polygon"),
    "polygon far away": (
        edited(lambda p: first(p, "segmentation", [[0, 0, 1e12, 0, 5, 5]])),
        "within its picture",
    ),
    "polygon text": (edited(lambda p: first(p, "segmentation", [["a"] * 6])), "polygon"),
    "polygon nan": (
        edited(lambda p: first(p, "segmentation", [[0, 0, float("nan"), 0, 5, 5]])),
        "polygon",
    ),
    "runs of another size": (
        edited(lambda p: first(p, "segmentation", {"size": [5, 5], "counts": [25]})),
        "size",
    ),
    "runs too short": (
        edited(lambda p: first(p, "segmentation", {"size": [256, 256], "counts": [5]})),
        "run lengths",
    ),
    "runs that are none": (
        edited(lambda p: first(p, "segmentation", {"size": [256, 256], "counts": "zz"})),
        "run lengths",
    ),
    "refs a dict": (
        lambda d: (d / "refs(unc).p").write_bytes(pickle.dumps({}, 2)),
        "wanted a list of refs",
    ),
    "ref a number": (
        lambda d: (d / "refs(unc).p").write_bytes(pickle.dumps([7], 2)),
        "ref 0.*split",
    ),
    "no split": (refs_with(split=None), 'needs "split"'),
    "no sentences": (refs_with(sentences=None), 'needs "sentences"'),
    "sentence a number": (refs_with(sentences=[3]), "sentence of ref 0"),
    "sentence without text": (refs_with(sentences=[{"sent_id": 1}]), '"sent"'),
    "annotation text": (refs_with(ann_id="three"), "ann_id"),
    "annotation unknown": (refs_with(ann_id=999_999), "no annotation 999999"),
    "picture unknown": (refs_with(image_id=77), "no picture 77"),
    "refs empty": (lambda d: (d / "refs(unc).p").write_bytes(pickle.dumps([], 2)), "no sentence"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_files_are_refused_in_one_sentence(
    tmp_path: Path, pictures: list[Picture], name: str
) -> None:
    root = write_refcoco(tmp_path, pictures[:2])
    change, said = WRONG[name]
    change(root / "refcoco")
    with pytest.raises(ValueError, match=f"(?is){said}") as caught:
        read_split(root)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 500, text


def test_mirrors_that_are_broken_are_refused(tmp_path: Path, pictures: list[Picture]) -> None:
    (tmp_path / "val-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match=r"whole parquet file.*\.$"):
        read_split(tmp_path)
    root, _ = write_lmms(tmp_path / "lmms", pictures)
    with pytest.raises(ValueError, match=r"'testA'.*val"):
        read_split(root, "testA")
    root = write_jxu124(tmp_path / "jxu124", pictures)
    with pytest.raises(ValueError, match="'train'"):
        read_split(root, "train")


def test_folders_without_data_are_refused(tmp_path: Path) -> None:
    for place, said in ((tmp_path, "known"), (tmp_path / "nowhere", "There is no")):
        with pytest.raises(ValueError, match=said):
            read_split(place)
    write_instances(tmp_path / "instances.json", [])
    with pytest.raises(ValueError, match="no data set"):
        read_split(tmp_path)
