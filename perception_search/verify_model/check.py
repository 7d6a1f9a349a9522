"""One line of the table: what was checked, what should come, what came; knows no model."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["pass", "fail", "info", "skipped"]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what is looked at.
        expected: what should come; empty where nothing is published.
        got: what came; where the check is skipped, why, and what to do about it.
        verdict: `info` where nobody has published, or proved, what should come.
    """

    name: str
    expected: str
    got: str
    verdict: Verdict

    def as_dict(self) -> dict[str, str]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def judged(name: str, expected: str, got: str, *, holds: bool) -> Check:
    """A check that passes or fails."""
    return Check(name, expected, got, "pass" if holds else "fail")


def skipped(name: str, reason: str) -> Check:
    """A check that was not made, and why."""
    return Check(name, "", reason, "skipped")
