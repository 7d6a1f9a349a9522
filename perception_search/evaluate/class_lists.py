"""Files beside a data set that say which media count, and of which class; opens no media.

What is read:

labels of ImageNet     `name label` or `name,label`, by WordNet id or position; Kaggle's
                       LOC_val_solution.csv; a WordNet id a line, in the order of the pictures
Kinetics' splits       CSV with label, youtube_id, time_start, time_end
a list of videos       `Class/video.avi`, or `video.mp4 label`; UCF101's testlist01.txt is one
HMDB51's splits        a folder of <class>_test_split1.txt, lines `video.avi 2` for the test

Positions of classes are by the order of their names, or WordNet ids, from 0.
"""

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from perception_search.errors import QueryError
from perception_search.evaluate.captions import find_media
from perception_search.media import claims_media, display

_IMAGENET_LABELS = (
    "LOC_val_solution.csv",
    "val.txt",
    "val_labels.txt",
    "labels.txt",
    "imagenet_2012_validation_synset_labels.txt",
)
_TEST = "2"  # HMDB51: 1 is for training, 0 for neither


def labelled_files(
    folder: Path, by_wnid: Mapping[str, int], labels: Path | None
) -> list[tuple[Path, int]]:
    """The pictures of one folder with their classes.

    Args:
        folder: holds ILSVRC2012_val_00000001.JPEG and so on.
        by_wnid: the position of each class.
        labels: the file; None to look for one of the usual names in the folder and above.

    Raises:
        QueryError: there is no such file, or it does not say the class of every picture.
    """
    pictures = sorted(path for path in folder.iterdir() if claims_media(path))
    file = labels or _beside(folder, _IMAGENET_LABELS)
    if file is None or not pictures:
        raise QueryError(
            f"{display(folder)} holds {len(pictures)} pictures and no file of labels; expected are "
            f"class folders named by WordNet id (n01440764), or pictures beside one of "
            f"{', '.join(_IMAGENET_LABELS)}, or --labels FILE"
        )
    said = _labels_by_name(file, pictures)
    unknown = [path.name for path in pictures if path.stem not in said]
    if unknown:
        raise QueryError(
            f"{display(file)} has a class for {len(pictures) - len(unknown)} of {len(pictures)} "
            f"pictures; it has none for {unknown[0]}"
        )
    values = {said[path.stem] for path in pictures}
    if all(value.isdigit() for value in values):
        numbers = {int(value) for value in values}
        if max(numbers) >= len(by_wnid):
            raise QueryError(
                f"{display(file)} has the label {max(numbers)}; positions are 0 to "
                f"{len(by_wnid) - 1}, by the order of the WordNet ids. Numbers from 1 on are "
                "ILSVRC's own ids, in another order: take a file with WordNet ids."
            )
        return [(path, int(said[path.stem])) for path in pictures]
    strange = sorted(values - set(by_wnid))
    if strange:
        raise QueryError(f"{display(file)} has the class {strange[0]}, which is none of ImageNet's")
    return [(path, by_wnid[said[path.stem]]) for path in pictures]


def _labels_by_name(file: Path, pictures: list[Path]) -> dict[str, str]:
    rows = _rows(file)
    if rows and all(len(row) == 1 for row in rows):
        if all(row[0].isdigit() for row in rows):
            raise QueryError(
                f"{display(file)} is a number a line: ILSVRC's own ids are in another order than "
                "the classes; take a file with WordNet ids, or `name label` lines"
            )
        if len(rows) != len(pictures):
            raise QueryError(
                f"{display(file)} has {len(rows)} lines for {len(pictures)} pictures; it must have "
                "one for each, in the order of their names"
            )
        return {path.stem: row[0] for path, row in zip(pictures, rows, strict=True)}
    return {Path(row[0]).stem: row[1].split()[0] for row in rows if len(row) > 1 and row[1].strip()}


def kinetics_split(root: Path) -> Path | None:
    """The CSV of the validation split, where one lies in the folder or in annotations/."""
    found = [
        file
        for folder in (root, root / "annotations")
        if folder.is_dir()
        for file in sorted(folder.glob("*.csv"))
        if re.search(r"val", file.stem)
    ]
    return found[0] if len(found) == 1 else None


def listed_videos(
    split: Path, root: Path, resolve: Callable[[str], int | None], num_classes: int
) -> tuple[list[tuple[Path, int]], list[str]]:
    """The listed videos that are there, with their classes, and the names of those that are not.

    Args:
        split: a file, or HMDB51's folder of lists.
        root: holds the videos, at any depth.
        resolve: the position of a class by its name.
        num_classes: positions in a list must be less.

    Raises:
        QueryError: the file cannot be read, or names no class that there is.
    """
    listed = _hmdb_lists(split) if split.is_dir() else _video_list(split, resolve)
    label_of: dict[str, int] = {}
    for name, label in listed.items():
        place = int(label) if label.isdigit() else resolve(label)
        if place is None or place >= num_classes:
            raise QueryError(f"{display(split)} has the class {label!r} for {name}; there is none")
        label_of[name] = place
    if not label_of:
        raise QueryError(f"{display(split)} lists no video")
    found = find_media(label_of, root)
    absent = [name for name in label_of if name not in found]
    by_id = {re.sub(r"_\d{6}_\d{6}$", "", name): name for name in absent}
    for video_id, path in find_media([one for one in by_id if one not in found], root).items():
        found[by_id[video_id]] = path  # <youtube id>.mp4, without the times
    pairs = [(found[name], label) for name, label in label_of.items() if name in found]
    return sorted(pairs), [name for name in label_of if name not in found]


def _video_list(file: Path, resolve: Callable[[str], int | None]) -> dict[str, str]:
    rows = _rows(file)
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "youtube_id" in head and "label" in head:
        at = {name: head.index(name) for name in head}
        return {_kinetics_name(row, at): row[at["label"]] for row in rows[1:]}
    if "youtube_id" in head:
        raise QueryError(f"{display(file)} has no column label: it is a split without classes")
    listed: dict[str, str] = {}
    for name, *label in rows:
        folder = Path(name).parent.name
        if resolve(folder) is not None:  # UCF101's own numbers count from 1
            listed[name] = folder
        elif label:
            listed[name] = label[-1]
        else:
            raise QueryError(
                f"{display(file)} has the line {name!r}; expected are Class/video.avi, or "
                "video.mp4 and its class, or a CSV with label, youtube_id, time_start, time_end"
            )
    return listed


def _kinetics_name(row: list[str], at: Mapping[str, int]) -> str:
    name = row[at["youtube_id"]]
    if "time_start" not in at or "time_end" not in at:
        return name
    start, end = (int(float(row[at[one]])) for one in ("time_start", "time_end"))
    return f"{name}_{start:06d}_{end:06d}"


def _hmdb_lists(folder: Path) -> dict[str, str]:
    listed: dict[str, str] = {}
    for file in sorted(folder.glob("*_test_split1.txt")):
        label = file.name.removesuffix("_test_split1.txt")
        listed |= {row[0]: label for row in _rows(file) if row[-1] == _TEST}
    if not listed:
        raise QueryError(f"{display(folder)} holds no <class>_test_split1.txt, HMDB51's lists")
    return listed


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """Lines `folder,name` as pairs.

    Raises:
        QueryError: the file cannot be read, or a line has no comma.
    """
    pairs = [line.partition(",") for line in _text(file).splitlines() if line.strip()]
    for folder, comma, _ in pairs:
        if not comma:
            raise QueryError(f"{display(file)} has the line {folder!r}; expected is folder,name")
    return [(folder.strip(), name.strip()) for folder, _, name in pairs]


def _rows(file: Path) -> list[list[str]]:
    """Lines as cells: by comma where the first has one, else by white space.

    Only the last of several words is a cell of its own, if it is a number: folders have spaces.
    """
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    if lines and "," in lines[0]:
        return list(csv.reader(lines))
    rows = []
    for line in lines:
        cells = line.split()
        if len(cells) > 2:
            cells = line.rsplit(None, 1) if cells[-1].isdigit() else [line]
        rows.append(cells)
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{display(file)} cannot be read: {error}") from error


def _beside(folder: Path, names: tuple[str, ...]) -> Path | None:
    places = [place / name for place in (folder, folder.parent) for name in names]
    return next((place for place in places if place.is_file()), None)
