"""Whether the licence of Perception LM was accepted: shown once, accepted once, remembered.

Stands before everything else: without acceptance nothing is imported, fetched or looked for.
"""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

from perception_search.assets import cache_folder
from perception_search.errors import LicenceNotAccepted

LICENCE = "FAIR Noncommercial Research License"
"""Of Perception LM's weights and of what they write (17 April 2025)."""

VARIABLE = "PERCEPTION_SEARCH_ACCEPT_LICENSE"
_YES = ("1", "true", "yes", "plm")


def accept(model: str, *, accepted: bool = False) -> None:
    """Go on where the licence is accepted: now, by the environment, or by this user before.

    Args:
        model: what is about to be loaded, for the message.
        accepted: the user says so now; it is remembered.

    Raises:
        LicenceNotAccepted: nobody has.
    """
    if accepted:
        _remember()
        return
    if os.environ.get(VARIABLE, "").strip().lower() in _YES or _place().is_file():
        return
    raise LicenceNotAccepted(
        f"{model} and all that it writes are under the {LICENCE}: for noncommercial research only, "
        "and passed on with these terms; read them on the model's page on the hub. Accept them "
        f"once with --accept-license, or with {VARIABLE}=1."
    )


def _place() -> Path:
    return cache_folder() / "plm-licence"


def _remember() -> None:
    path = _place()
    with contextlib.suppress(OSError):  # then it is asked again
        path.parent.mkdir(parents=True, exist_ok=True)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        path.write_text(f"{LICENCE} accepted {when}\n", encoding="utf-8")
