"""Pictures and videos with captions, as data sets publish them; knows no collection.

Which layout a file has is told by its fields:

    COCO captions   {"images": [{id, file_name}], "annotations": [{image_id, caption}]}
    Karpathy        {"images": [{filename, split, sentences: [{raw}]}]}, of which one split counts
    a list          [{"file_name", "file", "image" or "video": ..., "captions" or "caption": ...}]
    MSR-VTT         JSON {"videos": [{video_id, split}], "sentences": [{video_id, caption}]}
    DiDeMo          JSON [{video, description, annotation_id, times}], joined to a paragraph a video
    ActivityNet     JSON {"v_...": {"sentences": [...]}}, joined to a paragraph a video
    table           CSV by comma or semicolon with video_id and sentence, as for MSR-VTT 1k-A; or
                    Flickr30k's: image_name| comment_number| comment; image,caption; or
                    filename, split and raw, a JSON array of captions
    text            lines `picture.jpg#0<tab>caption`, `picture.jpg,caption` or `video caption`
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from perception_search.errors import QueryError
from perception_search.media import display

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v"),
    *(".mpg", ".mpeg", ".wmv", ".flv", ".3gp"),
)
KNOWN = (
    "COCO's captions, Karpathy's split, a list of files with captions, MSR-VTT's, DiDeMo's or "
    "ActivityNet's JSON; a CSV with video_id and sentence, or image and caption; or lines of "
    "a name and a caption"
)
_MOST_NAMED = 5
_PICTURE_LINE = re.compile(r"(?P<name>.+?\.(?:jpe?g|png|webp))(?:#\d+\t|,|\t)(?P<text>.*)", re.I)
_VIDEO_LINE = re.compile(r"(?P<name>\S+)\s+(?P<text>\S.*)")

Described: TypeAlias = Iterator[tuple[str, list[str]]]
"""A medium's name and captions; a name may come again."""


@dataclass(frozen=True)
class Captions:
    """The captions of one file.

    Attributes:
        layout: `coco`, `karpathy`, `list`, `msrvtt`, `didemo`, `activitynet`, `table` or `text`.
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


def load_captions(file: Path, split: str = "test", *, joined_by: str | None = None) -> Captions:
    """Read a file of captions.

    Args:
        file: JSON, CSV or lines of text.
        split: which part of a file with several parts counts; or the path of a file with the names
            of the media that count, a line each or a JSON array.
        joined_by: what stands between the captions of one medium in a table's field, `@` for MSVD.

    Raises:
        QueryError: it cannot be read, has none of the layouts, or lacks media of the split.
    """
    if Path(split).suffix and not Path(split).is_file():
        raise QueryError(f"{display(split)} is not there; name a part, or a file of names")
    text = _read(file)
    listed = _listed(Path(split)) if Path(split).is_file() else None
    part = None if listed is not None else split
    try:
        if file.suffix.lower() == ".json":
            layout, media = _from_json(_parsed(file, text), part)
        elif file.suffix.lower() == ".csv":
            layout, media = "table", _from_table(file, text, part, joined_by)
        else:
            layout, media = "text", _from_lines(file, text)
        found = _made(layout, media)
    except (KeyError, TypeError, AttributeError) as error:
        raise QueryError(
            f"{display(file)} has no layout that is known ({error!r}): {KNOWN}"
        ) from error
    if not found.names:
        raise QueryError(f"{display(file)} has nothing of the split {split!r}")
    return found if listed is None else _selected(found, listed, Path(split))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{display(file)} cannot be read: {error}; wanted is {KNOWN}") from error


def _parsed(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise QueryError(f"{display(file)} is no JSON: {error}") from error


def _listed(file: Path) -> list[str]:
    """The names in a list of media: a JSON array, or a line each."""
    text = _read(file)
    if text.lstrip().startswith("["):
        return [str(name) for name in _parsed(file, text)]
    return [line.strip() for line in text.splitlines() if line.strip()]


def _selected(captions: Captions, names: Iterable[str], file: Path) -> Captions:
    """Those whose names are listed, with or without an extension."""
    known = set(captions.names)
    by_stem = {_stem(name): name for name in captions.names}
    wanted = {name: name if name in known else by_stem.get(_stem(name)) for name in names}
    unknown = [name for name, found in wanted.items() if found is None]
    if unknown or not wanted:
        named = ", ".join(unknown[:_MOST_NAMED]) + " and others" * (len(unknown) > _MOST_NAMED)
        raise QueryError(
            f"{len(wanted) - len(unknown)} of {len(wanted)} names in {display(file)} have "
            f"captions; missing are {named}"
        )
    return captions.only(found for found in wanted.values() if found is not None)


def _stem(name: str) -> str:
    suffix = Path(name).suffix.lower()
    is_media = suffix in (*VIDEO_SUFFIXES, ".jpg", ".jpeg", ".png")
    return name[: -len(suffix)] if is_media else name


# JSON


def _from_json(content: Any, split: str | None) -> tuple[str, Described]:
    if isinstance(content, list):
        if content and {"description", "video"} <= set(content[0]):
            return "didemo", _from_didemo(content)
        return "list", _from_list(content)
    if "annotations" in content:
        return "coco", _from_coco(content)
    if "sentences" in content:
        return "msrvtt", _from_msrvtt(content, split)
    if "images" in content:
        return "karpathy", _from_karpathy(content, split)
    return "activitynet", _from_activitynet(content)


def _from_coco(content: Mapping[str, Any]) -> Described:
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in content["images"]:
        yield image["file_name"], captions.get(image["id"], [])


def _from_karpathy(content: Mapping[str, Any], split: str | None) -> Described:
    for image in content["images"]:
        if split in (None, image["split"]):
            yield image["filename"], [sentence["raw"] for sentence in image["sentences"]]


def _from_msrvtt(content: Mapping[str, Any], split: str | None) -> Described:
    videos = [one for one in content["videos"] if split in (None, one["split"])]
    kept: dict[str, list[str]] = {video["video_id"]: [] for video in videos}
    for sentence in content["sentences"]:
        if sentence["video_id"] in kept:
            kept[sentence["video_id"]].append(sentence["caption"])
    yield from kept.items()


def _from_list(content: list[Mapping[str, Any]]) -> Described:
    for entry in content:
        keys = [key for key in ("file_name", "file", "image", "video") if key in entry]
        said = entry["captions"] if "captions" in entry else entry["caption"]
        yield entry[keys[0] if keys else "file_name"], [said] if isinstance(said, str) else said


def _from_didemo(content: list[Mapping[str, Any]]) -> Described:
    paragraphs: dict[str, list[str]] = {}
    for entry in content:
        paragraphs.setdefault(entry["video"], []).append(entry["description"].strip())
    for video, sentences in paragraphs.items():
        yield video, [" ".join(sentences)]


def _from_activitynet(content: Mapping[str, Any]) -> Described:
    for video, entry in content.items():
        yield video, [" ".join(sentence.strip() for sentence in entry["sentences"])]


# Tables and lines


def _from_table(file: Path, text: str, split: str | None, joined_by: str | None) -> Described:
    head = text.partition("\n")[0]
    separator = next((mark for mark in ("|", ";") if mark in head), ",")
    is_spaced = separator == "|"
    reader = csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=is_spaced)
    columns = [column.strip().lower() for column in next(reader, [])]
    for name, said, read in (
        ("video_id", "sentence", lambda field: field.split(joined_by) if joined_by else [field]),
        ("image_name", "comment", lambda field: [field]),
        ("filename", "raw", json.loads),
        ("image", "caption", lambda field: [field]),
    ):
        if {name, said} <= set(columns):
            return _rows(reader, columns, (name, said), split, read, separator)
    raise QueryError(
        f"{display(file)} has the columns {', '.join(columns)}; MSR-VTT's file has video_id and "
        "sentence, Flickr30k's image and caption, image_name and comment, or filename and raw"
    )


def _rows(
    reader: Iterator[list[str]],
    columns: list[str],
    names: tuple[str, str],
    split: str | None,
    read: Callable[[str], list[str]],
    separator: str,
) -> Described:
    name, said = map(columns.index, names)
    part = columns.index("split") if "split" in columns else None
    for row in filter(None, reader):
        if len(row) > len(columns) and said == len(columns) - 1:  # a caption with separators
            row = [*row[:said], separator.join(row[said:])]
        if part is None or split in (None, row[part]):
            texts = read(row[said]) if len(row) > said else []
            yield row[name].strip(), [text for text in texts if text.strip()]


def _from_lines(file: Path, text: str) -> Described:
    """Flickr30k's forms, or MSVD's descriptions; a heading is passed over."""
    lines = [line for line in text.splitlines() if line.strip()]
    of_pictures = any(_PICTURE_LINE.match(line) for line in lines[:2])
    pattern = _PICTURE_LINE if of_pictures else _VIDEO_LINE
    for number, line in enumerate(lines):
        found = pattern.fullmatch(line.strip())
        if found:
            if of_pictures or not line.startswith("#"):
                yield found["name"], [found["text"].strip()]
        elif number and not line.startswith("#"):
            raise QueryError(f"{display(file)}: {line[:60]!r} is not a name and a caption")


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


# Media


def find_media(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """Where each name lies in the folder or below it; names that are nowhere are left out.

    A video is found whatever its extension, ActivityNet's also without the `v_` before its name.
    What lies nearer to `folder` comes first.
    """
    below: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (len(path.parts), path)):
        if path.is_file():
            below.setdefault(path.name, path)
            if path.suffix.lower() in VIDEO_SUFFIXES:
                below.setdefault(path.stem, path)
    found = {}
    for name in names:
        last = Path(name).name
        is_video = Path(name).suffix.lower() in (*VIDEO_SUFFIXES, "")
        stem = Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else last
        called = [last, stem, stem.removeprefix("v_")] if is_video else [last]
        if (folder / name).is_file():
            found[name] = folder / name
        else:
            place = next((below[one] for one in called if one in below), None)
            if place is not None:
                found[name] = place
    return found
