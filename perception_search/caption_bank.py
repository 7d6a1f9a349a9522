"""A fixed set of everyday captions, what a collection is usually asked; knows no encoder.

Composed of the class names of ImageNet and of the words in `caption_bank.toml`: people and animals
that do something somewhere, things, food, views, documents. Stored scores are bound to its hash.
"""

import functools
import hashlib
import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path

_HERE = Path(__file__).parent
_PLACES_PER_DEED = 10


@functools.cache
def captions() -> tuple[str, ...]:
    """The captions, each once, always in the same order.

    Every second of what is composed: on real photographs as good as all, at half the cost.
    """
    return tuple(dict.fromkeys(_composed()))[::2]


@functools.cache
def sha256() -> str:
    """Of all captions, in hex."""
    return hashlib.sha256("\n".join(captions()).encode()).hexdigest()


def _composed() -> Iterator[str]:
    table = (_HERE / "encoder/imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("\t")[0] for line in table if not line.startswith("#")]
    yield from (f"a photo of a {name}" for name in names)
    words: dict[str, list[str]] = tomllib.loads((_HERE / "caption_bank.toml").read_text("utf-8"))
    who, where = itertools.cycle(words["who"]), itertools.cycle(words["where"])
    for doing in words["doing"]:
        for _ in range(_PLACES_PER_DEED):
            yield f"{next(who)} {doing} {next(where)}"
    for subjects, settings in (
        ("animal", "animal_doing"),
        ("thing", "thing_where"),
        ("food", "food_where"),
        ("view", "when"),
    ):
        pairs = itertools.product(words[subjects], words[settings])
        yield from (f"{subject} {setting}" for subject, setting in pairs)
    yield from words["other"]
