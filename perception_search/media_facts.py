"""What a picture or video says of itself: when, where, with which camera; never raises.

EXIF and container metadata are written by anyone: what is not plausible is left out.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

_MAKE, _MODEL, _DATE_TIME = 0x010F, 0x0110, 0x0132
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_DATE_TIME_ORIGINAL, _OFFSET, _OFFSET_ORIGINAL = 0x9003, 0x9010, 0x9011

_EXIF_TIME = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_EXIF_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_ISO_6709 = re.compile(
    r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)(?:[+-][\d.]+)?(?:CRS\w*)?/?"
)
_NEVER = ("1904-01-01", "1970-01-01")  # what cameras without a clock write
_MAX_TEXT = 100


@dataclass(frozen=True)
class Facts:
    """What a file says of itself; absent facts are None.

    Attributes:
        taken_at: ISO 8601, with an offset where the file gives one.
        camera: maker and model.
        latitude: degrees, north positive.
        longitude: degrees, east positive.
    """

    taken_at: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def image_facts(image: "Image.Image") -> Facts:
    """What the EXIF of an open picture says."""
    exif = _try(image.getexif)
    if not exif:
        return Facts()
    inner = _try(lambda: exif.get_ifd(_EXIF_IFD)) or {}
    taken_at = _exif_time(inner.get(_DATE_TIME_ORIGINAL), inner.get(_OFFSET_ORIGINAL))
    taken_at = taken_at or _exif_time(exif.get(_DATE_TIME), inner.get(_OFFSET))
    camera = _camera(exif.get(_MAKE), exif.get(_MODEL))
    latitude, longitude = _try(lambda: _exif_place(exif.get_ifd(_GPS_IFD))) or (None, None)
    return Facts(taken_at, camera, latitude, longitude)


def container_facts(metadata: Mapping[str, str]) -> Facts:
    """What the metadata of a video container says, Apple's and Android's keys included."""
    said = {key.lower(): value for key, value in metadata.items()}
    apple = "com.apple.quicktime."
    taken_at = _iso_time(said.get(apple + "creationdate")) or _iso_time(said.get("creation_time"))
    camera = _camera(
        said.get(apple + "make") or said.get("com.android.manufacturer") or said.get("make"),
        said.get(apple + "model") or said.get("com.android.model") or said.get("model"),
    )
    where = said.get(apple + "location.iso6709") or said.get("location") or ""
    place = _ISO_6709.fullmatch(where.strip())
    latitude, longitude = _place(float(place[1]), float(place[2])) if place else (None, None)
    return Facts(taken_at, camera, latitude, longitude)


def _try(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception:  # EXIF is written by anyone; it never costs a picture
        return None


def _text(value: object) -> str:
    """The value as a short printable line; empty where it is no text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    value = value.split("\0", 1)[0]
    return "".join(c for c in value if c.isprintable()).strip()[:_MAX_TEXT]


def _exif_time(value: object, offset: object) -> str | None:
    found = _EXIF_TIME.match(_text(value))
    if not found:
        return None
    try:
        taken_at = datetime(*map(int, found.groups())).isoformat()  # type: ignore[arg-type]
    except ValueError:
        return None
    zone = _text(offset)
    return taken_at + zone if _EXIF_OFFSET.fullmatch(zone) else taken_at


def _iso_time(value: object) -> str | None:
    try:
        taken_at = datetime.fromisoformat(_text(value)).isoformat(timespec="seconds")
    except ValueError:
        return None
    return None if taken_at.startswith(_NEVER) else taken_at


def _camera(make: object, model: object) -> str | None:
    maker, name = _text(make), _text(model)
    if name.lower().startswith(maker.lower()):
        maker = ""
    return f"{maker} {name}".strip() or None


def _exif_place(gps: Mapping[int, Any]) -> tuple[float | None, float | None]:
    return _place(_degrees(gps[2], gps.get(1), "S"), _degrees(gps[4], gps.get(3), "W"))


def _degrees(parts: Any, side: object, negative_side: str) -> float:
    degrees, minutes, seconds = (*map(float, parts), 0.0, 0.0)[:3]
    value = degrees + minutes / 60 + seconds / 3600
    return -value if _text(side).upper().startswith(negative_side) else value


def _place(latitude: float, longitude: float) -> tuple[float | None, float | None]:
    known = math.isfinite(latitude) and math.isfinite(longitude)
    if not known or abs(latitude) > 90 or abs(longitude) > 180 or latitude == longitude == 0:
        return None, None
    return latitude, longitude
