"""Miniature releases of the referring data sets, written in their true formats.

Nothing here is shared with the readers: pickles are written opcode by opcode as Python 2 wrote
them, masks are cut into rectangles, and the arrays the rectangles came from are the truth.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refdiff.evaluation import read_scenes
from refdiff.stickers import DATA

Mask = np.ndarray


class Long(int):
    """A number that Python 2 kept as a long."""


class Bytes(str):
    """A string that Python 2 kept as str rather than unicode."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with its objects [N, H, W] and sentences: text and the objects meant."""

    image: Image.Image
    objects: Mask
    said: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.image.height, self.image.width

    def truth(self, meant: tuple[int, ...]) -> Mask:
        return np.logical_or.reduce(self.objects[list(meant)], axis=0, initial=False) | np.zeros(
            self.size, bool
        )


def sticker_pictures(count: int) -> list[Picture]:
    """The first sticker scenes, cropped to unlike sizes so that no axis can be swapped."""
    found = []
    for number, scene in enumerate(read_scenes(DATA / "validation")[:count]):
        height, width = 256 - 8 * number, 256 - 3 * number
        image = scene.picture().crop((0, 0, width, height))
        objects = scene.masks()[:, :height, :width]
        said = tuple((one.text, one.objects) for one in scene.sentences)
        found.append(Picture(image, objects, said))
    return found


def rectangles(mask: Mask) -> list[tuple[int, int, int, int]]:
    """Runs of rows as (left, top, right, bottom), ends outside; equal runs of rows are joined."""
    open_runs: dict[tuple[int, int], int] = {}
    found = []
    for y in range(len(mask) + 1):
        row = mask[y].astype(np.int8) if y < len(mask) else np.zeros(mask.shape[1], np.int8)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
        runs = {(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)}
        for run in [run for run in open_runs if run not in runs]:
            found.append((run[0], open_runs.pop(run), run[1], y))
        for run in runs:
            open_runs.setdefault(run, y)
    return found


def coco_polygons(mask: Mask) -> list[list[float]]:
    return [
        [float(n) for n in (x0, y0, x1, y0, x1, y1, x0, y1)] for x0, y0, x1, y1 in rectangles(mask)
    ]


def coco_runs(mask: Mask) -> dict[str, Any]:
    """Uncompressed run lengths down the columns, as COCO writes its crowds."""
    flat = mask.T.flatten().astype(np.int8)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [int(n) for n in counts]}


def phrasecut_polygons(mask: Mask) -> list[list[list[float]]]:
    """Corners inside, as they are drawn with their outline."""
    return [
        [[x0 + 0.3, y0 + 0.6], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]
        for x0, y0, x1, y1 in rectangles(mask)
    ]


# ---- pickles as Python 2 wrote them ----------------------------------------------------------


def python2_pickle(value: Any) -> bytes:
    memo = 0

    def put() -> bytes:
        nonlocal memo
        memo += 1
        return b"q" + bytes([memo - 1]) if memo <= 256 else b"r" + struct.pack("<I", memo - 1)

    def write(one: Any) -> bytes:
        if isinstance(one, dict):
            items = b"".join(write(Bytes(key)) + write(inner) for key, inner in one.items())
            return b"}" + put() + b"(" + items + b"u"
        if isinstance(one, list):
            start = b"]" + put()
            return start + b"(" + b"".join(write(inner) for inner in one) + b"e"
        if isinstance(one, Bytes):
            data = one.encode("latin1")
            return b"U" + bytes([len(data)]) + data + put()
        if isinstance(one, str):
            data = one.encode("utf-8")
            return b"X" + struct.pack("<I", len(data)) + data + put()
        if isinstance(one, Long):
            data = int(one).to_bytes(int(one).bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        return b"K" + bytes([one]) if 0 <= one < 256 else b"J" + struct.pack("<i", one)

    return b"\x80\x02" + write(value) + b"."


# ---- the refer layout ------------------------------------------------------------------------


def coco_name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def write_pictures(folder: Path, pictures: list[Picture], name: Any = coco_name) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        picture.image.save(folder / name(number), "JPEG", quality=95)


def write_instances(file: Path, pictures: list[Picture], crowds: bool = True) -> None:
    """As COCO's: annotation 100 * picture + object; the last object of each is a crowd."""
    annotations = []
    for number, picture in enumerate(pictures):
        for index, mask in enumerate(picture.objects):
            crowd = crowds and index == len(picture.objects) - 1
            shape = coco_runs(mask) if crowd else coco_polygons(mask)
            annotations.append(
                {
                    "segmentation": shape,
                    "area": float(mask.sum()),
                    "iscrowd": int(crowd),
                    "image_id": number,
                    "bbox": [0.0, 0.0, 1.0, 1.0],
                    "category_id": 1,
                    "id": 100 * number + index,
                }
            )
    images = [
        {"license": 1, "file_name": coco_name(number), "coco_url": "", "id": number}
        | {"height": picture.size[0], "width": picture.size[1], "date_captured": ""}
        for number, picture in enumerate(pictures)
    ]
    plain = {"info": {"description": "miniature"}, "images": images, "licenses": []}
    plain |= {"annotations": annotations, "categories": [{"id": 1, "name": "sticker"}]}
    file.write_text(json.dumps(plain))


def refs_of(pictures: list[Picture], many: bool, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """A ref for each sentence. many: ann_id is a list, [-1] for nothing, as in gRefCOCO."""
    refs: list[dict[str, Any]] = []
    sent = 0
    for number, picture in enumerate(pictures):
        for text, meant in picture.said:
            if not many and len(meant) != 1:
                continue
            anns = [100 * number + index for index in meant] or [-1]
            said = [{"raw": text, "sent": text.lower(), "sent_id": sent, "tokens": ["a"]}]
            said.append({"raw": f"{text} ", "sent": text, "sent_id": sent + 1, "tokens": []})
            refs.append(
                {
                    "ref_id": len(refs),
                    "ann_id": anns if many else Long(anns[0]),
                    "category_id": 1,
                    "file_name": Bytes(coco_name(number).replace(".jpg", f"_{len(refs)}.jpg")),
                    "image_id": number,
                    "sent_ids": [sent, sent + 1],
                    "split": Bytes(splits[len(refs) % len(splits)]),
                    "sentences": said,
                }
            )
            sent += 2
    return refs


def write_refcoco(
    root: Path,
    pictures: list[Picture],
    name: str = "refcoco",
    by: str = "unc",
    splits: tuple[str, ...] = ("val",),
    images: str = "images/mscoco/images/train2014",
) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    refs = refs_of(pictures, False, splits)
    (folder / f"refs({by}).p").write_bytes(python2_pickle(refs))
    write_instances(folder / "instances.json", pictures)
    write_pictures(root / images, pictures)
    return root


def write_grefcoco(root: Path, pictures: list[Picture]) -> Path:
    folder = root / "grefcoco"
    folder.mkdir(parents=True)
    refs = refs_of(pictures, True, ("val",))
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    write_instances(folder / "instances.json", pictures)
    write_pictures(root / "images" / "train2014", pictures)
    return root


# ---- PhraseCut and the mirrors ---------------------------------------------------------------


def write_phrasecut(root: Path, pictures: list[Picture], sizes: bool = True) -> Path:
    tasks = []
    for number, picture in enumerate(pictures):
        for index, (text, meant) in enumerate(picture.said):
            if not meant:
                continue
            tasks.append(
                {
                    "task_id": f"{number}__{index}",
                    "image_id": number,
                    "ann_ids": list(meant),
                    "instance_boxes": [[0, 0, 1, 1] for _ in meant],
                    "Polygons": [phrasecut_polygons(picture.objects[one]) for one in meant],
                    "phrase": text,
                    "phrase_structure": {"name": "sticker", "attributes": [], "type": "name"},
                }
            )
    root.mkdir(parents=True, exist_ok=True)
    (root / "refer_test.json").write_text(json.dumps(tasks))
    if sizes:
        plain = [
            {"image_id": number, "height": one.size[0], "width": one.size[1], "split": "test"}
            for number, one in enumerate(pictures)
        ]
        (root / "image_data_split3000.json").write_text(json.dumps(plain))
    write_pictures(root / "images", pictures, "{}.jpg".format)
    return root


def write_jxu124(root: Path, pictures: list[Picture]) -> Path:
    import pyarrow
    from pyarrow import parquet

    rows = []
    for ref in refs_of(pictures, False, ("val", "testA")):
        number, index = divmod(int(ref["ann_id"]), 100)
        picture = pictures[number]
        annotation = {"segmentation": coco_polygons(picture.objects[index]), "iscrowd": 0}
        info = {"file_name": coco_name(number), "id": number}
        info |= {"height": picture.size[0], "width": picture.size[1]}
        rows.append(
            {
                "sent_ids": ref["sent_ids"],
                "file_name": str(ref["file_name"]),
                "ann_id": int(ref["ann_id"]),
                "ref_id": ref["ref_id"],
                "image_id": number,
                "split": str(ref["split"]),
                "sentences": ref["sentences"],
                "category_id": 1,
                "raw_anns": json.dumps(annotation),
                "raw_image_info": json.dumps(info),
                "raw_sentences": json.dumps(ref["sentences"]),
                "image_path": f"coco/train2014/{coco_name(number)}",
                "bbox": [0.0, 0.0, 1.0, 1.0],
            }
        )
    (root / "data").mkdir(parents=True)
    for split, name in (("val", "validation"), ("testA", "test")):
        own = [row for row in rows if row["split"] == split]
        parquet.write_table(
            pyarrow.Table.from_pylist(own), root / "data" / f"{name}-00000-of-00001.parquet"
        )
    write_pictures(root / "coco" / "train2014", pictures)
    return root


def write_lmms(root: Path, pictures: list[Picture]) -> tuple[Path, dict[str, Mask]]:
    """One flat polygon for each ref: the largest rectangle. Also the masks that remain, by id."""
    import pyarrow
    from pyarrow import parquet

    rows, truth = [], {}
    for number, picture in enumerate(pictures):
        data = io.BytesIO()
        picture.image.save(data, "JPEG")
        for index, (text, meant) in enumerate(picture.said):
            if len(meant) != 1:
                continue
            parts = rectangles(picture.objects[meant[0]])
            x0, y0, x1, y1 = max(parts, key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))
            question = f"{number}_{index}"
            truth[question] = np.zeros(picture.size, bool)
            truth[question][y0:y1, x0:x1] = True
            rows.append(
                {
                    "question_id": question,
                    "image": {"bytes": data.getvalue(), "path": None},
                    "question": "Please carefully observe the area ...",
                    "answer": [text, f"the {text}"],
                    "segmentation": [float(n) for n in (x0, y0, x1, y0, x1, y1, x0, y1)],
                    "bbox": [float(n) for n in (x0, y0, x1 - x0, y1 - y0)],
                    "iscrowd": 0,
                    "file_name": coco_name(number),
                }
            )
    (root / "data").mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    file = root / "data" / "val-00000-of-00001.parquet"
    parquet.write_table(table, file, row_group_size=2)
    return root, truth


def zip_folder(folder: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"train2014/{path.name}")
