"""Pictures and videos with captions, as data sets publish them; knows no collection.

Which layout a file has is told by its fields:

    COCO captions   {"images": [{id, file_name}], "annotations": [{image_id, caption}]}
    Karpathy        {"images": [{filename, split, sentences: [{raw}]}]}, of which one split counts
    a list          [{"file_name" or "file", "captions": [...] or "caption"}]
    MSR-VTT         CSV, by comma or semicolon, with the columns video_id and sentence
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_search.errors import QueryError
from perception_search.media import display

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")


@dataclass(frozen=True)
class Captions:
    """The captions of one file.

    Attributes:
        layout: `coco`, `karpathy`, `list` or `msrvtt`.
        names: the media, as the file names them, in its order.
        texts: the captions.
        owner: of each caption the position of its medium in `names`.
    """

    layout: str
    names: tuple[str, ...]
    texts: tuple[str, ...]
    owner: tuple[int, ...]

    def only(self, names: Iterable[str]) -> "Captions":
        """The same of these media alone."""
        kept = set(names)
        places = {name: place for place, name in enumerate(n for n in self.names if n in kept)}
        pairs = [
            (text, places[self.names[one]])
            for text, one in zip(self.texts, self.owner, strict=True)
            if self.names[one] in kept
        ]
        return Captions(
            self.layout, tuple(places), tuple(t for t, _ in pairs), tuple(o for _, o in pairs)
        )


def load_captions(file: Path, split: str = "test") -> Captions:
    """Read a file of captions.

    Args:
        file: JSON or CSV.
        split: which part of Karpathy's file counts.

    Raises:
        QueryError: it cannot be read, or has none of the layouts.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{display(file)} cannot be read: {error}") from error
    if file.suffix.lower() == ".csv":
        return _made("msrvtt", _from_csv(file, text))
    try:
        content = json.loads(text)
    except ValueError as error:
        raise QueryError(f"{display(file)} is no JSON: {error}") from error
    try:
        if isinstance(content, list):
            return _made("list", _from_list(content))
        if "annotations" in content:
            return _made("coco", _from_coco(content))
        found = _made("karpathy", _from_karpathy(content, split))
    except (KeyError, TypeError, AttributeError) as error:
        raise QueryError(
            f"{display(file)} has no layout that is known ({error!r}): COCO's captions, Karpathy's "
            "split, a list of files with captions, or MSR-VTT's CSV"
        ) from error
    if not found.names:
        raise QueryError(f"{display(file)} has nothing of the split {split!r}")
    return found


def _from_coco(content: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in content["images"]:
        yield image["file_name"], captions.get(image["id"], [])


def _from_karpathy(content: Mapping[str, Any], split: str) -> Iterator[tuple[str, list[str]]]:
    for image in content["images"]:
        if image["split"] == split:
            yield image["filename"], [sentence["raw"] for sentence in image["sentences"]]


def _from_list(content: list[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    for entry in content:
        name = entry["file_name"] if "file_name" in entry else entry["file"]
        yield name, entry["captions"] if "captions" in entry else [entry["caption"]]


def _from_csv(file: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    first = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first else ",")
    columns = reader.fieldnames or []
    if not {"video_id", "sentence"} <= set(columns):
        raise QueryError(
            f"{display(file)} has the columns {', '.join(columns)}; MSR-VTT's file has video_id "
            "and sentence"
        )
    for row in reader:
        yield row["video_id"], [row["sentence"]]


def _made(layout: str, media: Iterable[tuple[str, list[str]]]) -> Captions:
    """One entry a medium, however often it is named; media without a caption are left out."""
    captions: dict[str, list[str]] = {}
    for name, texts in media:
        captions.setdefault(name, []).extend(texts)
    described = {name: texts for name, texts in captions.items() if texts}
    pairs = [(text, place) for place, some in enumerate(described.values()) for text in some]
    return Captions(
        layout, tuple(described), tuple(text for text, _ in pairs), tuple(at for _, at in pairs)
    )


def find_media(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """Where each name lies in the folder or below it; names that are nowhere are left out.

    A name without an extension is that of a video. What lies nearer to `folder` comes first.
    """
    below: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (len(path.parts), path)):
        if path.is_file():
            below.setdefault(path.name, path)
            if path.suffix.lower() in VIDEO_SUFFIXES:
                below.setdefault(path.stem, path)
    found = {}
    for name in names:
        direct = folder / name
        if direct.is_file():
            found[name] = direct
        elif Path(name).name in below:
            found[name] = below[Path(name).name]
    return found
