"""What is asked of the page, as its controls, its link and its API have it; searches nothing.

A filter is made of checked values here; no text of the page is ever part of SQL.
"""

import re
from dataclasses import dataclass, fields
from datetime import date
from typing import Any
from urllib.parse import urlencode

KINDS = ("everything", "pictures", "videos")
NUM_HITS = 48
MOST_HITS = 600
_KIND_OF = {"pictures": "image", "videos": "video"}
_MINUS = re.compile(r'(?:(?<=\s)|^)-(?:"([^"]+)"|(\w\S*))')


@dataclass(frozen=True)
class Asked:
    """One search.

    Attributes:
        q: words; one with `-` before it lowers what shows it.
        like: content hash of an item that the hits should look like.
        drop: name of a dropped file that they should look like.
        weight: of the dropped file beside words of weight 1.
        kind: one of `KINDS`.
        after: the first day, `2024-05-01`; empty for any.
        before: the last day.
        longer: of a video, at least so many seconds; 0 for any.
        shorter: at most so many; 0 for any.
        larger: of a file, at least so many megabytes; 0 for any.
        smaller: at most so many; 0 for any.
        folder: the folder that holds it, and those below, as `Shelf.folders` names them; empty for
            any.
        score: hits below are left out.
        answers: leave out what answers no better than chance.
        captions: look for the words in captions too, and fuse both rankings.
        rerank: have the best judged once more, where the page can.
        k: hits wanted.
    """

    q: str = ""
    like: str = ""
    drop: str = ""
    weight: float = 1.0
    kind: str = "everything"
    after: str = ""
    before: str = ""
    longer: float = 0.0
    shorter: float = 0.0
    larger: float = 0.0
    smaller: float = 0.0
    folder: str = ""
    score: float = -1.0
    answers: bool = False
    captions: bool = False
    rerank: bool = False
    k: int = NUM_HITS

    @staticmethod
    def of(said: dict[str, Any]) -> "Asked":
        """From the values of a link or of controls; what makes no sense is refused.

        Raises:
            ValueError: the sentence says which value, and what it may be.
        """
        given: dict[str, Any] = {}
        for field in fields(Asked):
            value = said.get(field.name)
            if value is None or value == "":
                continue
            try:
                given[field.name] = _READ[type(field.default)](value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{field.name}: {value!r} is no such value") from error
        asked = Asked(**given)
        if asked.kind not in KINDS:
            raise ValueError(f"kind: {asked.kind!r}; it may be {', '.join(KINDS)}")
        for name in ("after", "before"):
            if getattr(asked, name):
                _day(name, getattr(asked, name))
        for name in ("like", "drop"):
            if not re.fullmatch("[0-9a-f]{0,64}", getattr(asked, name)):
                raise ValueError(f"{name}: {getattr(asked, name)!r} names nothing here")
        if not 1 <= asked.k <= MOST_HITS:
            raise ValueError(f"k: {asked.k}; it may be 1 to {MOST_HITS}")
        if not 0 < asked.weight <= 100:
            raise ValueError(f"weight: {asked.weight:g}; above 0, and at most 100")
        return asked

    def link(self) -> str:
        """The query string that asks the same."""
        default = Asked()
        said = {
            field.name: int(value) if isinstance(value, bool) else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != getattr(default, field.name)
        }
        return "?" + urlencode(said)

    @property
    def words(self) -> tuple[str, list[str]]:
        """What should be shown, and what should not."""
        minus = [quoted or word for quoted, word in _MINUS.findall(self.q)]
        return " ".join(_MINUS.sub(" ", self.q).split()), minus

    def where(self, folder: str = "") -> str | None:
        """The filter over the item columns; `folder` is the path of the folder that is named."""
        day = "coalesce(taken_at, modified_at)"
        parts = []
        if self.kind in _KIND_OF:
            parts.append(f"kind = '{_KIND_OF[self.kind]}'")
        if self.after:
            parts.append(f"{day} >= TIMESTAMP '{_day('after', self.after)} 00:00:00'")
        if self.before:
            parts.append(f"{day} <= TIMESTAMP '{_day('before', self.before)} 23:59:59.999'")
        if self.longer:
            parts.append(f"duration_seconds >= {float(self.longer)!r}")
        if self.shorter:
            parts.append(f"duration_seconds <= {float(self.shorter)!r}")
        if self.larger:
            parts.append(f"size_bytes >= {int(self.larger * 1_000_000)}")
        if self.smaller:
            parts.append(f"size_bytes <= {int(self.smaller * 1_000_000)}")
        if folder:
            quoted = folder.replace("'", "''")
            inside = quoted if quoted.endswith("/") else f"{quoted}/"
            parts.append(f"(folder = '{quoted}' OR starts_with(folder, '{inside}'))")
        return " AND ".join(parts) or None


def _day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no day; write it as 2024-05-01") from None


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) < 1e12:  # also false for what is no number
        raise ValueError(value)
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 2000 or "\0" in value:
        raise ValueError(value)
    return value.strip()


def _truth(value: Any) -> bool:
    if value in (True, 1, "1", "true"):
        return True
    if value in (False, 0, "0", "false"):
        return False
    raise ValueError(value)


_READ: dict[type, Any] = {
    str: _text,
    float: _number,
    int: lambda value: int(_number(value)),
    bool: _truth,
}
