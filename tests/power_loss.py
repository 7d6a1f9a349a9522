"""What a folder may look like after the power went: every operation recorded, then replayed.

The model is the strictest that POSIX allows. What a file holds is safe once the file was synced,
and a name once its folder was; until then data may be lost, zeroed, cut short or there, and every
creation, rename and deletion may have happened or not, each for itself.
"""

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from stores import DIM, caption, description, item, row, unit

from perception_search import manifest, purge, verify
from perception_search.errors import PerceptionSearchError
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.writer import Grid, Writer, create_folder

COLLECTION = Path("albums") / "c.ps"
"""Where `ingest` makes its collection; the folder above is new too."""

NUM_ITEMS = 12
_NEXT = 900
PURGED = 3
"""The item that `record_purge` takes out again."""
_ROOT = 0


class Acknowledged(NamedTuple):
    """The numbers of the items that must be there, and of those that must not."""

    items: frozenset[int]
    removed: frozenset[int]


class Log:
    """The operations on files below a folder, in order, as the system was asked for them.

    Attributes:
        events: `name` events say (folder, change, name, node, other name), `sync` what a file held,
            `sync_folder` which folder, `acknowledged` which items were reported by then, as stored
            and as removed.
        start: how many of them only say what was there before.
    """

    def __init__(self, root: Path) -> None:
        self.events: list[tuple] = []
        self._nodes: dict[int, int] = {root.stat().st_ino: _ROOT}
        self._places: dict[int, Path] = {}
        self._folders = {_ROOT}
        self._last: dict[int, bytes] = {}
        self._count = 0
        self._begin_with_what_is_there(root)
        self.start = len(self.events)

    def _begin_with_what_is_there(self, root: Path) -> None:
        """Nothing of that can be lost but by what is recorded."""
        for path in sorted(root.rglob("*")):
            node = self._new(path)
            if path.is_dir():
                self._folders.add(node)
            else:
                self.events.append(("sync", node, path.read_bytes()))
        self.events += [("sync_folder", node) for node in sorted(self._folders)]

    def acknowledge(self, items: Iterable[int], removed: Iterable[int] = ()) -> None:
        """What was reported as safe, and as gone."""
        self.events.append(("acknowledged", Acknowledged(frozenset(items), frozenset(removed))))

    def lacks(self, path: Path) -> None:
        """`path` was taken away by others, and that is safe on disk."""
        folder = self._node(path.parent)
        self.events += [("name", folder, "unlink", path.name, None, ""), ("sync_folder", folder)]

    def holds(self, path: Path, content: bytes) -> None:
        """`path` was written to by others, and that is safe on disk."""
        self.events.append(("sync", self._node(path), content))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Whatever is done to files in here is recorded."""
        real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "mkdir")}
        real_open = Path.open

        def opened(path: Path, mode: str = "r", *how, **also):
            was_there = path.exists()
            file = real_open(path, mode, *how, **also)
            if "r" not in mode and not was_there:
                self._new(path)
            return file

        def mkdir(path, *how, **also):
            real["mkdir"](path, *how, **also)
            self._folders.add(self._new(Path(path)))

        def replace(source, target, **also):
            source, target = Path(source), Path(target)
            node, folder = self._node(source), self._node(source.parent)
            if node is not None:
                self._look(node)
            real["replace"](source, target, **also)
            self._places[node] = target
            self.events.append(("name", folder, "rename", source.name, node, target.name))

        def unlink(path, **also):
            path = Path(path)
            node, folder = self._node(path), self._node(path.parent)
            if node is not None:
                self._look(node)
            real["unlink"](path, **also)
            self.events.append(("name", folder, "unlink", path.name, node, ""))

        def fsync(descriptor):
            real["fsync"](descriptor)
            node = self._nodes[os.fstat(descriptor).st_ino]
            if node in self._folders:
                self.events.append(("sync_folder", node))
            else:
                self.events.append(("sync", node, self._look(node)))

        with (
            mock.patch.object(Path, "open", opened),
            mock.patch.multiple(os, fsync=fsync, replace=replace, unlink=unlink, mkdir=mkdir),
        ):
            yield

    def _new(self, path: Path) -> int:
        self._count += 1
        node = self._count
        self._nodes[path.stat().st_ino] = node
        self._places[node] = path
        self.events.append(("name", self._node(path.parent), "link", path.name, node, ""))
        return node

    def _node(self, path: Path) -> int | None:
        try:
            return self._nodes.get(path.stat().st_ino)
        except FileNotFoundError:
            return None

    def _look(self, node: int) -> bytes:
        """What a file holds now."""
        if node not in self._folders:
            with contextlib.suppress(FileNotFoundError):
                self._last[node] = self._places[node].read_bytes()
        return self._last.get(node, b"")

    def acknowledged(self, point: int) -> Any:
        """What was reported before the operation `point`; None where not even the collection."""
        said = [event[1] for event in self.events[:point] if event[0] == "acknowledged"]
        return said[-1] if said else None

    def state(self, point: int, choose: "Choice") -> dict[Path, bytes | None]:
        """One folder that there may be if the power goes before the operation `point`.

        Returns:
            What every file holds, by its path; None for a folder.
        """
        names: dict[int, dict[str, int]] = {node: {} for node in self._folders}
        unsafe: dict[int, list[tuple]] = {node: [] for node in self._folders}
        synced: dict[int, bytes] = {}
        for kind, node, *rest in (e for e in self.events[:point] if e[0] != "acknowledged"):
            if kind == "sync":
                synced[node] = rest[0]
            elif kind == "sync_folder":
                for change in unsafe[node]:
                    _apply(names[node], *change)
                unsafe[node] = []
            elif node is not None:
                unsafe[node].append(tuple(rest))
        for node, changes in unsafe.items():
            for change in changes:
                if choose.happened():
                    _apply(names[node], *change)
        found: dict[Path, bytes | None] = {}

        def walk(folder: int, place: Path) -> None:
            for name, node in sorted(names[folder].items()):
                if node in self._folders:
                    found[place / name] = None
                    walk(node, place / name)
                elif node in synced:
                    found[place / name] = synced[node]
                else:
                    found[place / name] = choose.data(self._last.get(node, b""))

        walk(_ROOT, Path())
        return found


def _apply(names: dict[str, int], change: str, name: str, node: int, other: str) -> None:
    if change == "link":
        names[name] = node
    elif change == "rename":
        names.pop(name, None)
        names[other] = node
    else:
        names.pop(name, None)


class Choice:
    """How the dice fall for what was not synced: `worst` has every name and no data, `least` has
    neither, and others are drawn.
    """

    def __init__(self, how: str, rng: random.Random) -> None:
        self._how = how
        self._rng = rng

    def happened(self) -> bool:
        return self._how == "worst" or (self._how == "drawn" and self._rng.random() < 0.5)

    def data(self, written: bytes) -> bytes:
        if self._how != "drawn" or not written:
            return b""
        part = written[: self._rng.randrange(len(written))]
        zeros = bytes(len(written))
        rest = bytes(len(written) - len(part))
        return self._rng.choice([b"", zeros, part, part + rest, written])


def build(state: dict[Path, bytes | None], root: Path) -> None:
    """Make `root`, which is empty, hold `state`."""
    for place, content in state.items():  # folders come before what is in them
        if content is None:
            (root / place).mkdir()
        else:
            (root / place).write_bytes(content)


def record(root: Path) -> Log:
    """A small life of a collection below `root`: made, grown, merged, tidied; as a log.

    In the middle the folder of captions is missing, as in collections from before there were any,
    and one of the two manifests is damaged, as `heal` is for.
    """
    log = Log(root)
    path = root / COLLECTION
    with log.recording():
        create_folder(path, description())
        log.acknowledge([])
    (path / "captions").rmdir()
    log.lacks(path / "captions")
    for damaged in (manifest.path_of(path, 1, "b"), path / manifest.COLLECTION_FILE):
        damaged.write_bytes(b"damaged")
        log.holds(damaged, b"damaged")
    done = 0
    with log.recording():
        for count in (3, 2, 2):
            with Writer(path) as writer:
                for number in range(done, done + count):
                    _add(writer, number)
                writer.commit({"device": "cpu"})
                done += count
                log.acknowledge(range(done))
                writer.compact()
                writer.collect_garbage(minimum_age_seconds=-1)
    return log


def record_purge(root: Path) -> Log:
    """Another life: seven items, of which one is removed and purged."""
    log = Log(root)
    path = root / COLLECTION
    rest = frozenset(range(7)) - {PURGED}
    with log.recording():
        create_folder(path, description())
        with Writer(path) as writer:
            for number in range(7):
                _add(writer, number)
            writer.commit()
        log.acknowledge(range(7))
        with Writer(path) as writer:
            record = PathRecord(1, 2, 3, f"{PURGED:064x}", "removed")
            writer.add_path(Path(f"/photos/{PURGED}.jpg"), record)
            log.acknowledge(rest)  # from here on it may be gone
            writer.commit()
            log.acknowledge(rest, [PURGED])
            purge.purge(writer)
    return log


def still_purged(log: Log, seed: int) -> Iterator[str]:
    """One sentence a file that holds what was purged once the purge has returned, whatever was
    synced: nothing where all is well.
    """
    secret = unit(PURGED).astype(np.float16).tobytes()
    for how in ("worst", "least", "drawn"):
        state = log.state(len(log.events), Choice(how, random.Random(seed)))
        assert state
        for place, content in state.items():
            if secret in (content or b""):
                yield f"{how}: {place} holds it still"


def record_work(root: Path, work: Callable[[Path], Any]) -> Log:
    """What `work` does to the collection of `root`, which is safe before; then it is reported."""
    log = Log(root)
    with log.recording():
        work(root / COLLECTION)
        log.events.append(("acknowledged", "done"))
    return log


def embeddings(path: Path) -> tuple[str, dict[str, list[bytes]]]:
    """The model of a collection, and what is stored of each of its items."""
    snapshot = Snapshot.open(path)
    stored: dict[str, list[bytes]] = {name: [] for name in snapshot.live_paths}
    hashes = snapshot.rows.content_hash.to_pylist()
    for position in snapshot.searchable.tolist():
        embedding = snapshot.rows.embeddings(np.array([position]))
        stored[hashes[position]].append(embedding.tobytes())
    model = snapshot.manifest.collection["identity"]["model"]
    return model, {name: sorted(rows) for name, rows in stored.items()}


def _add(writer: Writer, number: int) -> None:
    """All that belongs to one item."""
    grid = Grid(unit(number)[None], np.ones(1), np.zeros(1))
    writer.add_item(item(number), [row(number)], grid)
    writer.add_captions(f"{number:064x}", [caption(f"picture {number}")])
    record = PathRecord(1, 2, 3, f"{number:064x}", "ingested")
    writer.add_path(Path(f"/photos/{number}.jpg"), record)


def check(root: Path, acknowledged: Acknowledged | None, started: int = 7) -> None:
    """Open what `root` holds and go on with it; AssertionError where anything was lost or torn."""
    path = root / COLLECTION
    if acknowledged is None and not path.exists():
        create_folder(path, description())
    known = sound(path)
    if acknowledged is not None:
        assert known >= acknowledged.items, "an acknowledged row is lost"
        assert not known & acknowledged.removed, "a removed row is back"
    assert known <= frozenset(range(started)), "a row that nobody wrote"
    with Writer(path) as writer:
        _add(writer, _NEXT)
        writer.commit()
    assert sound(path) == known | {_NEXT}
    newest = manifest.read(path)
    assert verify.examine(path, newest) == []
    for copy in manifest.COPIES:
        assert manifest.read_copy(path, newest.version, copy) == newest
    left = list(path.rglob(".tmp-*"))
    assert not left, "what an interrupted write left is swept"


def sound(path: Path) -> frozenset[int]:
    """The numbers of the items in a collection, after all that belongs to each was compared."""
    snapshot = Snapshot.open(path)
    found = snapshot.searchable
    hashes = snapshot.rows.content_hash.take(found).to_pylist()
    numbers = [int(content_hash, 16) for content_hash in hashes]
    assert len(set(numbers)) == len(numbers), "a row stands twice"
    row_ids = snapshot.rows.row_id.tolist()
    assert len(set(row_ids)) == len(row_ids), "a row id stands twice"
    expected = np.array([unit(n) for n in numbers]).reshape(-1, DIM).astype(np.float16)
    stored = snapshot.rows.embeddings(found)
    assert np.array_equal(stored, expected.astype(np.float32)), "an embedding is another"
    widths = dict(
        zip(
            snapshot.live_items["content_hash"].to_pylist(),
            snapshot.live_items["width"].to_pylist(),
            strict=True,
        )
    )
    assert widths == {f"{n:064x}": 100 + n for n in numbers}, "an item is another"
    paths = {str(p) for some in snapshot.live_paths.values() for p in some}
    assert paths == {f"/photos/{n}.jpg" for n in numbers}, "a path is another"
    said = snapshot.captions_of(hashes)
    assert {name: [c.text for c in some] for name, some in said.items()} == {
        f"{n:064x}": [f"picture {n}"] for n in numbers
    }, "a caption is another"
    for number in numbers:
        grid = snapshot.grids.of(f"{number:064x}")
        assert np.array_equal(grid.embeddings[0], unit(number).astype(np.float16))
    return frozenset(numbers)


def states(log: Log, seed: int, count: int) -> Iterator[tuple[str, dict[Path, bytes | None], Any]]:
    """Different states after a power cut, `count` or some more: at every operation the two
    extremes, then as many that are drawn. Each with where it is from and what was acknowledged.
    """
    rng = random.Random(seed)
    seen = set()
    rounds = 0
    while rounds == 0 or len(seen) < count:
        hows = ("drawn",) if rounds else ("worst", "least")
        rounds += 1
        if rounds > 10 + count:
            raise RuntimeError(f"there are not {count} different states")
        for point in range(log.start, len(log.events) + 1):
            for how in hows:
                state = log.state(point, Choice(how, rng))
                acknowledged = log.acknowledged(point)
                key = hash((frozenset(state.items()), acknowledged))
                if key not in seen:
                    seen.add(key)
                    yield f"{how} before operation {point}", state, acknowledged


def replay(
    folder: Path,
    log: Log,
    seed: int,
    count: int,
    check: Callable[[Path, Any], None] = check,
) -> Iterator[str]:
    """One sentence a state that was tried: what is wrong with it, or nothing."""
    for origin, state, acknowledged in states(log, seed, count):
        place = folder / "state"
        place.mkdir(parents=True)
        build(state, place)
        try:
            # what is checked has no power to lose
            with mock.patch.object(os, "fsync", return_value=None):
                check(place, acknowledged)
        except (AssertionError, PerceptionSearchError, OSError, ValueError) as error:
            yield f"{origin}: {error!r}"[:300]
        else:
            yield ""
        shutil.rmtree(place)
