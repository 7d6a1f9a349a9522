"""The items of a collection by content hash, their thumbnails, and what was dropped on the page."""

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

from perception_search import Collection
from perception_search.decode import MediaReader
from perception_search.errors import MediaError
from perception_search.manifest import THUMBNAILS
from perception_search.media import HEAD_BYTES, display, identify

THUMBNAIL_SIDE = 480
THUMBNAIL_BYTES = 512 << 20
DROP_BYTES = 100 << 20
MOST_DROPPED = 64


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
        self._version = -1
        self._by_hash: dict[str, Item] = {}
        self._hash_of: dict[Path, str] = {}
        self._folders: dict[str, str] = {}
        self._readers = [MediaReader(), MediaReader()]
        self._next_reader = 0
        self._thumbnails = collection.path / THUMBNAILS
        self._num_bytes: int | None = None
        self._drops: OrderedDict[str, Dropped] = OrderedDict()
        self._drop_folder = tempfile.TemporaryDirectory(prefix="perception-search-dropped-")

    # Items

    def item(self, content_hash: str) -> Item | None:
        """The item, where it is in the collection now."""
        self._refresh()
        return self._by_hash.get(content_hash)

    def item_at(self, path: Path) -> Item | None:
        """The item that a path of the collection holds."""
        self._refresh()
        content_hash = self._hash_of.get(path)
        return None if content_hash is None else self._by_hash.get(content_hash)

    def folders(self) -> list[str]:
        """Every folder that holds items, from the folder that was ingested on: `Pictures/2024`."""
        self._refresh()
        return sorted(self._folders)

    def folder(self, name: str) -> str | None:
        """The path of a folder that `folders` names."""
        self._refresh()
        return self._folders.get(name)

    def _refresh(self) -> None:
        snapshot = self.collection.snapshot
        if snapshot.version == self._version:
            return
        with self._lock:
            if snapshot.version == self._version:
                return
            by_hash: dict[str, Item] = {}
            hash_of: dict[Path, str] = {}
            names = ("content_hash", "kind", "taken_at", "modified_at", "duration_seconds")
            sizes = ("size_bytes", "width", "height")
            items = snapshot.live_items.select([*names, *sizes]).to_pylist()
            paths = snapshot.live_paths
            for said in items:
                content_hash = said["content_hash"]
                when = said["taken_at"] or said["modified_at"]
                item = Item(
                    content_hash,
                    paths[content_hash][0],
                    said["kind"],
                    f"{when:%Y-%m-%d}" if when else "",
                    said["duration_seconds"],
                    said["size_bytes"] or 0,
                    said["width"],
                    said["height"],
                )
                by_hash[content_hash] = item
                hash_of |= dict.fromkeys(paths[content_hash], content_hash)
            self._by_hash, self._hash_of = by_hash, hash_of
            roots = [Path(root) for root in snapshot.manifest.roots]
            self._folders = _named({path.parent for path in hash_of}, roots)
            self._version = snapshot.version

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
