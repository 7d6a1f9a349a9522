"""clip-benchmark's webdataset folders, unpacked: pictures with classes, or with captions.

    test/nshards.txt, test/0.tar, ...     of each picture its file, and .cls or .txt
    classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt

Pictures are written out once, since a collection knows its media by their files.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from perception_search import durable
from perception_search.errors import QueryError
from perception_search.evaluate.captions import Captions
from perception_search.evaluate.class_sets import BENCHMARKS, ClassSet
from perception_search.media import display

_PICTURES = ("webp", "png", "jpg", "jpeg")
_INDEX = "samples.json"
_MOST_NAMED = 5


def load_shards(
    root: Path,
    unpack_to: Path,
    *,
    dataset: str,
    split: str = "test",
    on_progress: Callable[[int, int], None] | None = None,
) -> ClassSet | Captions:
    """What the shards hold; shards that were unpacked before are not opened.

    Args:
        root: the data set's folder.
        unpack_to: where pictures go, a folder for each shard.
        dataset: its name.
        split: the folder of the shards.
        on_progress: called with (shards done, shards in all).

    Raises:
        QueryError: a file or a shard is missing or damaged, or the layout is another.
    """
    samples = _unpacked(root, unpack_to, split, on_progress)
    if _text(root / "dataset_type.txt", "classification").strip().lower() == "retrieval":
        texts = [(name, text.splitlines()) for name, text in _with(samples, "txt", root)]
        pairs = [(text, place) for place, (_, some) in enumerate(texts) for text in some]
        return Captions(
            "webdataset",
            tuple(name for name, _ in texts),
            tuple(text for text, _ in pairs),
            tuple(place for _, place in pairs),
        )
    if samples and all("npy" in sample for sample in samples.values()):
        raise QueryError(f"{display(root)} has several labels for a picture, which is not measured")
    labelled = _with(samples, "cls", root)
    names = [line.strip() for line in _text(root / "classnames.txt").splitlines() if line.strip()]
    prompts = _text(root / "zeroshot_classification_templates.txt").splitlines()
    labels = tuple(int(label) for _, label in labelled)
    if labels and not 0 <= min(labels) <= max(labels) < len(names):
        raise QueryError(
            f"{display(root)} has labels {min(labels)} to {max(labels)} and {len(names)} class "
            "names"
        )
    return ClassSet(
        dataset=dataset,
        kind="image",
        class_names=tuple(names),
        templates=tuple(line.rstrip("\r") for line in prompts if line.strip()),
        paths=tuple(unpack_to / name for name, _ in labelled),
        labels=labels,
        num_expected=BENCHMARKS[dataset].num_files if dataset in BENCHMARKS else None,
    )


def _unpacked(
    root: Path, unpack_to: Path, split: str, on_progress: Callable[[int, int], None] | None
) -> dict[str, dict[str, str]]:
    """By picture, `<shard>/<file>`, what the shards say of it by extension."""
    count = _text(root / split / "nshards.txt").strip()
    if not count.isdigit():
        raise QueryError(f"{display(root / split / 'nshards.txt')} holds {count!r}, no number")
    shards = [root / split / f"{number}.tar" for number in range(int(count))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        named = ", ".join(missing[:_MOST_NAMED]) + " ..." * (len(missing) > _MOST_NAMED)
        raise QueryError(
            f"{display(root / split)} has {len(shards) - len(missing)} of {len(shards)} shards; "
            f"missing are {named}"
        )
    samples: dict[str, dict[str, str]] = {}
    for number, shard in enumerate(shards):
        folder = unpack_to / shard.stem
        index = folder / _INDEX
        about = shard.stat()
        stamp = [about.st_size, about.st_mtime_ns]
        known = json.loads(index.read_text()) if index.is_file() else {}
        if known.get("shard") != stamp:
            folder.mkdir(parents=True, exist_ok=True)
            known = {"shard": stamp, "samples": _unpack(shard, folder)}
            durable.write(index, json.dumps(known).encode())
        samples |= {f"{shard.stem}/{name}": said for name, said in known["samples"].items()}
        if on_progress is not None:
            on_progress(number + 1, len(shards))
    return samples


def _unpack(shard: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Write a shard's pictures under numbers: a name in a tar may point anywhere."""
    pictures: dict[str, str] = {}
    said: dict[str, dict[str, str]] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is None:
                    continue
                place, _, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                key, extension = f"{place}/{key}", extension.lower()
                if extension in _PICTURES:
                    pictures[key] = f"{len(pictures):06d}.{extension}"
                    (folder / pictures[key]).write_bytes(file.read())
                elif extension == "npy":
                    said.setdefault(key, {})["npy"] = ""
                elif extension in ("cls", "txt"):
                    said.setdefault(key, {})[extension] = file.read().decode("utf-8").strip()
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{display(shard)} cannot be read: {error}") from error
    return {name: said.get(key, {}) for key, name in pictures.items()}


def _with(samples: dict[str, dict[str, str]], extension: str, root: Path) -> list[tuple[str, str]]:
    lacking = [name for name, said in samples.items() if extension not in said]
    if lacking or not samples:
        raise QueryError(
            f"{display(root)} has {len(samples)} pictures, of which {len(lacking)} have no "
            f".{extension} beside them"
        )
    return [(name, said[extension]) for name, said in samples.items()]


def _text(file: Path, otherwise: str | None = None) -> str:
    if otherwise is not None and not file.exists():
        return otherwise
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(
            f"{display(file)} cannot be read ({error}); expected are test/nshards.txt, test/0.tar "
            "and so on, classnames.txt and zeroshot_classification_templates.txt"
        ) from error
