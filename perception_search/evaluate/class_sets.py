"""Pictures and videos with their classes, as data sets are laid out on disk; knows no collection.

    imagenet          class folders named by WordNet id, position or name; or all pictures in one
                      folder beside a file of labels
    imagenetv2        folders 0 to 999
    imagenet-a, -r    class folders by WordNet id, 200 of the 1,000
    imagenet-sketch   class folders by WordNet id
    objectnet         images/<folder>, and the mapping files that come with it
    k400, k600, k700  class folders with spaces or underscores; or videos with a split's CSV
    ucf101, hmdb51    class folders; with the lists of a split, its test videos alone
    anything else     class folders of one's own

Folders may lie in `root` or where downloads put them. Sources of names and prompts: `class_names`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from perception_search.errors import QueryError
from perception_search.evaluate import class_lists
from perception_search.evaluate.captions import VIDEO_SUFFIXES
from perception_search.evaluate.class_names import (
    Prompts,
    action_classes,
    by_key,
    imagenet_classes,
    key,
    templates,
)
from perception_search.media import claims_media, display

Kind: TypeAlias = Literal["image", "video"]
Resolve: TypeAlias = Callable[[str], int | None]
_MOST_NAMED = 5


@dataclass(frozen=True)
class Benchmark:
    """A public data set.

    Attributes:
        kind: what its media are.
        prompts: what its class names are put into.
        column: its name in tables of published figures.
        num_files: media of the whole set, where that is one number for everybody; videos
            disappear from the web, so copies of them differ.
        where: folders below the root in which it may lie.
    """

    kind: Kind
    prompts: Prompts
    column: str
    num_files: int | None
    where: tuple[str, ...]


_VAL = ("val", "validation", "test")
_VIDEOS = (*_VAL, "videos", "videos_val", "val_256")
BENCHMARKS: Mapping[str, Benchmark] = {
    "imagenet": Benchmark(
        "image", "imagenet", "IN-1k", 50_000, (*_VAL, "ILSVRC/Data/CLS-LOC/val", "imagenet/val")
    ),
    "imagenetv2": Benchmark(
        "image",
        "imagenet",
        "IN-v2",
        10_000,
        ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency", *_VAL),
    ),
    "imagenet-a": Benchmark("image", "imagenet", "IN-A", 7_500, ("imagenet-a", *_VAL)),
    "imagenet-r": Benchmark("image", "imagenet", "IN-R", 30_000, ("imagenet-r", *_VAL)),
    "imagenet-sketch": Benchmark("image", "imagenet", "IN-Sketch", 50_889, ("sketch", *_VAL)),
    "objectnet": Benchmark("image", "imagenet", "ObjectNet", 18_574, ("objectnet-1.0",)),
    "k400": Benchmark("video", "kinetics", "K400", None, _VIDEOS),
    "k600": Benchmark("video", "kinetics", "K600", None, _VIDEOS),
    "k700": Benchmark("video", "kinetics", "K700", None, _VIDEOS),
    "ucf101": Benchmark("video", "actions", "UCF101", None, ("UCF-101", "UCF101", *_VIDEOS)),
    "hmdb51": Benchmark("video", "actions", "HMDB51", None, ("hmdb51_org", "hmdb51", *_VIDEOS)),
}
_CLIP_BENCHMARK = {
    "imagenet1k": "imagenet",
    "imagenet_sketch": "imagenet-sketch",
    "k400_val": "k400",
    "k600_val": "k600",
    "k700_val": "k700",
    "ucf101_val": "ucf101",
    "hmdb_test": "hmdb51",
    "mscoco_captions": "coco",
}
_SUBSETS: Mapping[str, Literal["", "A", "R"]] = {"imagenet-a": "A", "imagenet-r": "R"}
_ACTIONS = {"k400": "kinetics_400", "k600": "kinetics_600", "k700": "kinetics_700"}


def dataset_of(name: str) -> str:
    """What `eval` calls a data set that CLIP_benchmark calls so; other names as they are."""
    name = name.removeprefix("wds/").removeprefix("wds_").removeprefix("vtab/")
    return _CLIP_BENCHMARK.get(name, name)


@dataclass(frozen=True)
class ClassSet:
    """Media with their classes.

    Attributes:
        dataset: `imagenet`, ..., or a name of one's own.
        kind: what the media are.
        class_names: of every class, as prompts have them; also of those without media.
        templates: prompts, with `{c}` for the class name.
        paths: the media.
        labels: of each the position of its class.
        missing: what should be there and is not: files of a list, folders of classes.
        num_expected: media of the whole set; None where copies differ.
    """

    dataset: str
    kind: Kind
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    missing: tuple[str, ...] = ()
    num_expected: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there."""
        return not self.missing and self.num_expected in (None, len(self.paths))

    @property
    def num_missing(self) -> int:
        """Files that should be there and are not; folders, where copies differ in files."""
        if self.num_expected is None:
            return len(self.missing)
        return max(0, self.num_expected - len(self.paths))

    @property
    def is_comparable(self) -> bool:
        """Whether a published figure is of the same: the usual prompts and the whole set, or videos
        of every class where no two copies are alike.
        """
        known = BENCHMARKS.get(self.dataset)
        if known is None or self.templates != templates(known.prompts):
            return False
        if self.num_expected is None:
            return len(set(self.labels)) == len(self.class_names)
        return self.is_whole

    def check(self) -> None:
        """Raise QueryError, naming what is missing, unless all of it is there."""
        if self.is_whole:
            return
        said = []
        if self.missing:
            said.append(f"{len(self.missing)} are missing: {_named(self.missing)}")
        if self.num_expected not in (None, len(self.paths)):
            said.append(f"the whole set has {self.num_expected:,}")
        raise QueryError(
            f"{self.dataset}: {len(self.paths):,} {self.kind}s of {len(set(self.labels)):,} of "
            f"{len(self.class_names):,} classes were found; {'; '.join(said)}. Go on with what is "
            "there: --allow-missing."
        )


def load_class_set(
    dataset: str,
    root: Path,
    *,
    labels: Path | None = None,
    split: Path | None = None,
    prompts: Sequence[str] | None = None,
) -> ClassSet:
    """What lies below a folder, by the layout of a data set; opens no media file.

    Args:
        dataset: one of `BENCHMARKS`, or any other name for class folders of one's own.
        root: the folder.
        labels: for ImageNet in one folder, the file of labels; otherwise lines `folder,name` that
            say what prompts call a class.
        split: of videos, a file that lists those that count, or HMDB51's folder of lists.
        prompts: instead of the data set's; each has `{c}` in it.

    Raises:
        QueryError: there is nothing of that layout, or a file of labels or lists cannot be read.
    """
    if not root.is_dir():
        raise QueryError(f"{display(root)} is no folder; name the one that holds {dataset}")
    for prompt in prompts or ():
        if "{c}" not in prompt:
            raise QueryError(f"the prompt {prompt!r} has no {{c}}, where the class name goes")
    known = BENCHMARKS.get(dataset)
    if split is not None and (known is None or known.kind == "image"):
        raise QueryError(f"{dataset} has no splits; only public sets of videos have")
    if known is None:
        return _own_folders(dataset, root, labels, prompts)
    used = tuple(prompts or templates(known.prompts))
    missing: Sequence[str]
    if dataset == "objectnet":
        names, found = _objectnet(root, known)
        missing = _without_media(names, found)
    elif known.kind == "video":
        names = _renamed(action_classes(_ACTIONS.get(dataset, dataset)), labels)
        found, missing = _videos(dataset, root, known, split)
    else:
        classes = imagenet_classes(_SUBSETS.get(dataset, ""))
        names = [one.name for one in classes]
        found = _imagenet(dataset, root, known, labels)
        missing = _without_media([f"{one.wnid} ({one.name})" for one in classes], found)
    return ClassSet(
        dataset=dataset,
        kind=known.kind,
        class_names=tuple(names),
        templates=used,
        paths=tuple(path for path, _ in found),
        labels=tuple(label for _, label in found),
        missing=tuple(missing),
        num_expected=known.num_files,
    )


def media_below(folder: Path, kind: Kind) -> list[Path]:
    """The files below a folder that are named as pictures are, or as videos, by path."""
    return sorted(
        path
        for path in folder.rglob("*")
        if claims_media(path)
        and (path.suffix.lower() in VIDEO_SUFFIXES) == (kind == "video")
        and not path.name.startswith(".")
        and path.is_file()
    )


# Folders


def _imagenet(
    dataset: str, root: Path, known: Benchmark, labels: Path | None
) -> list[tuple[Path, int]]:
    classes = imagenet_classes(_SUBSETS.get(dataset, ""))
    by_wnid = {one.wnid: place for place, one in enumerate(classes)}
    by_number = {str(one.number): place for place, one in enumerate(classes)}
    by_name = by_key([one.name for one in classes])

    def resolve(folder: str) -> int | None:
        if folder.isdigit():
            return by_number.get(folder.lstrip("0") or "0")
        return by_wnid.get(folder, by_name.get(key(folder)))

    folder, found = _class_folders(root, known, resolve)
    if labels is None and found:
        return found
    if labels is not None or dataset == "imagenet":
        return class_lists.labelled_files(_fullest(root, known, folder), by_wnid, labels)
    raise _unlike(dataset, root, f"folders named by WordNet id, such as {classes[0].wnid}")


def _objectnet(root: Path, known: Benchmark) -> tuple[list[str], list[tuple[Path, int]]]:
    """Names of the 113 classes that ImageNet has too, and their pictures."""
    base = next((root / one for one in known.where if (root / one / "images").is_dir()), root)
    files = []
    for name in ("folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json"):
        places = (base / "mappings" / name, base / name, base.parent / name, root / name)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise QueryError(
                f"{display(root)} has no {name}, which ObjectNet's download has in its folder "
                "mappings; expected are images/<folder>/<picture>.png and mappings/<four files>"
            )
        files.append(json.loads(file.read_text(encoding="utf-8")))
    label_of_folder, overlapping = files
    folders = sorted(one for one, label in label_of_folder.items() if label in overlapping)
    place_of = {folder: place for place, folder in enumerate(folders)}
    images = base / "images"
    if not images.is_dir():
        raise _unlike("objectnet", root, "a folder images with a folder for each class")
    names = [label_of_folder[one].lower() for one in folders]
    return names, _below(images, place_of.get, known.kind)


def _videos(
    dataset: str, root: Path, known: Benchmark, split: Path | None
) -> tuple[list[tuple[Path, int]], list[str]]:
    names = action_classes(_ACTIONS.get(dataset, dataset))
    resolve = by_key(names).get
    split = split or (class_lists.kinetics_split(root) if dataset in _ACTIONS else None)
    if split is not None:
        return class_lists.listed_videos(split, root, lambda name: resolve(key(name)), len(names))
    _, found = _class_folders(root, known, lambda folder: resolve(key(folder)))
    if not found:
        wanted = "class folders with videos, such as " + names[0].replace(" ", "_")
        raise _unlike(
            dataset, root, f"{wanted}; or videos and, with --split, a file that lists them"
        )
    return found, _without_media(names, found)


def _own_folders(
    dataset: str, root: Path, labels: Path | None, prompts: Sequence[str] | None
) -> ClassSet:
    folders = sorted(one for one in root.iterdir() if one.is_dir() and not one.name.startswith("."))
    kinds: tuple[Kind, ...] = ("image", "video")
    of_kind = {kind: {one: media_below(one, kind) for one in folders} for kind in kinds}
    there = [kind for kind in kinds if any(of_kind[kind].values())]
    if len(there) != 1:
        held = "pictures and videos" if there else "neither"
        wanted = f"a folder for each class, with pictures or with videos; below are {held}"
        raise _unlike(dataset, root, wanted)
    [kind] = there
    paths = {folder: files for folder, files in of_kind[kind].items() if files}
    names = _renamed([folder.name for folder in paths], labels)
    return ClassSet(
        dataset=dataset,
        kind=kind,
        class_names=tuple(name.replace("_", " ").strip() for name in names),
        templates=tuple(prompts or templates("imagenet" if kind == "image" else "kinetics")),
        paths=tuple(path for files in paths.values() for path in files),
        labels=tuple(number for number, files in enumerate(paths.values()) for _ in files),
    )


def _class_folders(
    root: Path, known: Benchmark, resolve: Resolve
) -> tuple[Path, list[tuple[Path, int]]]:
    """The folder, of the root and where it may lie, with most classes, and its media."""
    places = [root, *(root / one for one in known.where)]
    folders = [place for place in places if place.is_dir()]
    best = max(folders, key=lambda folder: sum(resolve(one) is not None for one in _names(folder)))
    return best, _below(best, resolve, known.kind)


def _below(folder: Path, resolve: Resolve, kind: Kind) -> list[tuple[Path, int]]:
    found = []
    for name in sorted(_names(folder)):
        label = resolve(name)
        if label is not None:
            found += [(path, label) for path in media_below(folder / name, kind)]
    return found


def _fullest(root: Path, known: Benchmark, otherwise: Path) -> Path:
    """The first folder, of the root and where it may lie, that holds pictures itself."""
    places = [root, *(root / one for one in known.where)]
    holding = (one for one in places if one.is_dir() and any(map(claims_media, one.iterdir())))
    return next(holding, otherwise)


def _names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if one.is_dir()]


def _renamed(names: Sequence[str], labels: Path | None) -> list[str]:
    """The names, and for folders that a file of lines `folder,name` has, those."""
    if labels is None:
        return list(names)
    said = {key(folder): name for folder, name in class_lists.read_pairs(labels)}
    return [said.get(key(name), name) for name in names]


def _without_media(names: Sequence[str], found: Iterable[tuple[Path, int]]) -> list[str]:
    there = {label for _, label in found}
    return [f"the folder of {name}" for place, name in enumerate(names) if place not in there]


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(display, names[:_MOST_NAMED])) + " ..." * (len(names) > _MOST_NAMED)


def _unlike(dataset: str, root: Path, wanted: str) -> QueryError:
    found = sorted(one.name for one in root.iterdir())
    return QueryError(
        f"{display(root)} does not look like {dataset}: expected are {wanted}; found "
        f"{_named(found) if found else 'nothing'}"
    )
