"""What the classes of public data sets are called, and the prompts they are put into: data.

Names of folders are compared by their letters and digits alone: `massaging_person's_head`,
`Massaging persons head` and the published name are one class.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

Prompts: TypeAlias = Literal["imagenet", "kinetics", "actions"]
_FOLDER = Path(__file__).with_name("class_data")


class ImageNetClass(NamedTuple):
    """One of the 1,000: its position, its WordNet id, what prompts call it."""

    number: int
    wnid: str
    name: str


@cache
def templates(prompts: Prompts) -> tuple[str, ...]:
    """The prompts of a kind, each with `{c}` where the class name goes: 80, 28 or 48."""
    text = (_FOLDER / "templates.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)[prompts])


@cache
def imagenet_classes(subset: Literal["", "A", "R"] = "") -> tuple[ImageNetClass, ...]:
    """ImageNet's classes in its order.

    Args:
        subset: the 200 of ImageNet-A or ImageNet-R; empty for all 1,000.
    """
    from perception_search.encoder.starter import classes

    names, _, _ = classes()
    lines = [line.split() for line in _lines("imagenet")]
    return tuple(
        ImageNetClass(number, wnid, name)
        for number, ((wnid, *subsets), name) in enumerate(zip(lines, names, strict=True))
        if not subset or subset in subsets
    )


@cache
def action_classes(dataset: str) -> tuple[str, ...]:
    """What `kinetics_400`, `_600`, `_700`, `ucf101` or `hmdb51` calls its classes, as prompts do.

    Brackets are left out, as the reference leaves them out.
    """
    return tuple(name.replace("(", "").replace(")", "") for name in _lines(dataset))


def key(name: str) -> str:
    """The letters and digits of a name, in lower case: what two spellings share."""
    return re.sub(r"[\W_]", "", name).lower()


def by_key(names: Sequence[str]) -> Mapping[str, int]:
    """The position of each name by its key; names that share a key are left out."""
    keys = [key(name) for name in names]
    return {one: number for number, one in enumerate(keys) if keys.count(one) == 1}


def _lines(name: str) -> list[str]:
    lines = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
