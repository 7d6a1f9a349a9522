"""The items of a collection by content hash, their thumbnails, and what was dropped on the page."""

import functools
import hashlib
import itertools
import os
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from perception_search import Collection
from perception_search.decode import MediaReader
from perception_search.errors import MediaError
from perception_search.manifest import THUMBNAILS
from perception_search.media import HEAD_BYTES, display, identify
from perception_search.snapshot import Snapshot

THUMBNAIL_SIDE = 480
THUMBNAIL_BYTES = 512 << 20
DROP_BYTES = 100 << 20
MOST_DROPPED = 64
_SHOWN = (
    "content_hash",
    "kind",
    "taken_at",
    "modified_at",
    "duration_seconds",
    "size_bytes",
    "width",
    "height",
)


@dataclass(frozen=True)
class Item:
    """What the page shows of one item."""

    content_hash: str
    path: Path
    kind: str
    taken: str
    duration_seconds: float | None
    size_bytes: int
    width: int | None
    height: int | None


class Dropped(NamedTuple):
    """A file that was dropped on the page: where it is kept, and `image` or `video`."""

    path: Path
    kind: str


class Shelf:
    """Finds items of the newest version, makes pictures of them once, keeps what was dropped."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._lock = threading.Lock()
        self._view: _View | None = None
        self._readers = [MediaReader(), MediaReader()]
        self._next_reader = 0
        self._thumbnails = collection.path / THUMBNAILS
        self._num_bytes: int | None = None
        self._drops: OrderedDict[str, Dropped] = OrderedDict()
        self._drop_folder = tempfile.TemporaryDirectory(prefix="perception-search-dropped-")

    # Items

    def item(self, content_hash: str) -> Item | None:
        """The item, where it is in the collection now."""
        return self._newest().item(content_hash)

    def item_at(self, path: Path) -> Item | None:
        """The item that a path of the collection holds."""
        view = self._newest()
        return view.item(view.hash_of.get(os.fsencode(path), ""))

    def folders(self) -> list[str]:
        """Every folder that holds items, from the folder that was ingested on: `Pictures/2024`."""
        return sorted(self._newest().folders)

    def folder(self, name: str) -> str | None:
        """The path of a folder that `folders` names."""
        return self._newest().folders.get(name)

    def _newest(self) -> "_View":
        snapshot = self.collection.snapshot
        with self._lock:
            if self._view is None or self._view.snapshot.version != snapshot.version:
                self._view = _View(snapshot)
            return self._view

    # Pictures

    def thumbnail(self, item: Item, at_seconds: float) -> bytes:
        """A JPEG of an item, made once and kept in the collection's folder.

        Raises:
            MediaError: the file cannot be used any more.
        """
        at_seconds = round(max(0.0, at_seconds), 1) if item.kind == "video" else 0.0
        name = hashlib.sha256(f"{item.content_hash} {at_seconds} {THUMBNAIL_SIDE}".encode())
        kept = self._thumbnails / f"{name.hexdigest()}.jpg"
        try:
            jpeg = kept.read_bytes()
            os.utime(kept)  # used now: kept longer
            return jpeg
        except OSError:
            pass
        with self._lock:
            self._next_reader = (self._next_reader + 1) % len(self._readers)
            reader = self._readers[self._next_reader]
        try:
            jpeg = reader.thumbnail(item.path, at_seconds, THUMBNAIL_SIDE)
        except OSError as error:
            raise MediaError("unreadable", error.strerror or "it cannot be read") from error
        self._keep(kept, jpeg)
        return jpeg

    def _keep(self, path: Path, jpeg: bytes) -> None:
        with self._lock:
            try:
                path.parent.mkdir(exist_ok=True)
                if self._num_bytes is None:
                    self._num_bytes = sum(p.stat().st_size for p in path.parent.glob("*.jpg"))
                if self._num_bytes + len(jpeg) > THUMBNAIL_BYTES:
                    self._drop_least_used()
                new = path.with_suffix(f".{secrets.token_hex(4)}.new")
                new.write_bytes(jpeg)
                new.replace(path)
                self._num_bytes += len(jpeg)
            except OSError:
                return  # a disk that is full or only read: no cache

    def _drop_least_used(self) -> None:
        """Delete the pictures not used for longest, until a tenth of the space is free."""
        found = [(path.stat(), path) for path in self._thumbnails.glob("*.jpg")]
        kept = sum(stat.st_size for stat, _ in found)
        for stat, path in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
            if kept <= 0.9 * THUMBNAIL_BYTES:
                break
            path.unlink(missing_ok=True)
            kept -= stat.st_size
        self._num_bytes = kept

    # Dropped files

    def take(self, content: bytes) -> tuple[str, str]:
        """Keep a dropped file for as long as the page runs: its name, and `image` or `video`.

        Raises:
            MediaError: it is no picture and no video, or cannot be read.
        """
        found = identify(content[:HEAD_BYTES])
        if found.kind not in ("image", "video"):
            raise MediaError("unsupported", "this is no picture and no video that is known here")
        name = secrets.token_hex(16)
        path = Path(self._drop_folder.name) / name
        path.write_bytes(content)
        try:
            self._readers[0].thumbnail(path, 0.0, THUMBNAIL_SIDE)
        except MediaError:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._drops[name] = Dropped(path, found.kind)
            while len(self._drops) > MOST_DROPPED:
                _, oldest = self._drops.popitem(last=False)
                oldest.path.unlink(missing_ok=True)
        return name, found.kind

    def dropped(self, name: str) -> Dropped | None:
        """The dropped file of that name."""
        return self._drops.get(name)

    def dropped_picture(self, name: str) -> bytes | None:
        """A JPEG of a dropped file; None where there is none."""
        drop = self._drops.get(name)
        return None if drop is None else self._readers[0].thumbnail(drop.path, 0.0, THUMBNAIL_SIDE)

    def close(self) -> None:
        """End the decoding processes and forget what was dropped."""
        for reader in self._readers:
            reader.close()
        self._drop_folder.cleanup()

    def facts(self, item: Item) -> dict[str, Any]:
        """What a program is told of an item; no path."""
        return {
            "content_hash": item.content_hash,
            "name": item.path.name,
            "kind": item.kind,
            "date": item.taken,
            "duration_seconds": item.duration_seconds,
            "size_bytes": item.size_bytes,
        }


class _View:
    """The items of one version: what is where at once, an item when it is asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._items = snapshot.live_items.select(_SHOWN)
        hashes = self._items["content_hash"].to_pylist()
        self._place = {content_hash: place for place, content_hash in enumerate(hashes)}
        live = snapshot.paths.filter(pc.equal(snapshot.paths["outcome"], "ingested"))
        pairs = zip(live["path"].to_pylist(), live["content_hash"].to_pylist(), strict=True)
        self.hash_of: dict[bytes, str] = dict(pairs)

    def item(self, content_hash: str) -> Item | None:
        place = self._place.get(content_hash)
        if place is None:
            return None
        [said] = self._items.slice(place, 1).to_pylist()
        [path] = self.snapshot.first_paths(np.array([place]))
        when = said["taken_at"] or said["modified_at"]
        return Item(
            content_hash,
            path,
            said["kind"],
            f"{when:%Y-%m-%d}" if when else "",
            said["duration_seconds"],
            said["size_bytes"] or 0,
            said["width"],
            said["height"],
        )

    @functools.cached_property
    def folders(self) -> dict[str, str]:
        roots = [Path(root) for root in self.snapshot.manifest.roots]
        names = set(map(os.path.dirname, self.hash_of))
        return _named({Path(os.fsdecode(name)) for name in names}, roots)


def _named(folders: Iterable[Path], roots: Sequence[Path]) -> dict[str, str]:
    """Paths by short names: from the root that holds them on, or the last part alone; a name that
    is taken has a number.
    """
    named: dict[str, str] = {}
    for folder in sorted(folders):
        above = [root for root in roots if folder.is_relative_to(root)]
        outside = max(above, key=lambda root: len(root.parts)).parent if above else folder.parent
        short = name = display(folder.relative_to(outside).as_posix())
        for number in itertools.count(2):
            if name not in named:
                break
            name = f"{short} ({number})"
        named[name] = str(folder)
    return named
