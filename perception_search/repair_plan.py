"""What `repair` would do with a collection, and what it cannot bring back; changes nothing.

What `verify` finds is the beginning. Files of tables that are damaged give what can still be read
of them; what is missing then is looked for in whole files that the version does not name; what
remains is embedded again where its file is still there, and is otherwise named as lost.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from perception_search import durable, index, manifest, media, tables, text_cache, verify
from perception_search.errors import CollectionDamaged
from perception_search.manifest import Manifest, StoredFile
from perception_search.media import Found
from perception_search.salvage import Salvaged, readable_version, salvage, unnamed
from perception_search.snapshot import PathRecord, latest
from perception_search.verify import Damage

DAMAGED = "damaged"
"""Outcome of an item, and of its paths, whose embedding is lost: an ingest embeds it again."""
REASON = "its stored embedding was damaged"
_OURS = frozenset(field.name for field in tables.ITEM_FIELDS)


@dataclass(frozen=True)
class Step:
    """One thing that is done: `heal`, `reopen`, `replace`, `adopt`, `find`, `embed`, `rebuild` or
    `delete`; to which file, and why.
    """

    action: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Loss:
    """What cannot be brought back: of which file, and what."""

    path: Path
    reason: str


@dataclass
class Mended:
    """The tables of the next version, as far as they differ.

    Attributes:
        kept: files that stay; of rows and grids, without the contents in `dropped`.
        dropped: contents whose rows and grids go.
        parts: by table, what is written anew of damaged and of unnamed files.
        items: records that replace others, by content hash.
        paths: the same by path.
        images: rows of unnamed files that are taken in, with new ids.
        videos: contents that get their segments from the grid, and their whole-video row.
        next_row_id: at least; no id is given twice.
    """

    kept: list[StoredFile] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    parts: dict[str, list[pa.Table]] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    paths: dict[Path, PathRecord] = field(default_factory=dict)
    images: list[pa.Table] = field(default_factory=list)
    videos: dict[str, pa.Table] = field(default_factory=dict)
    next_row_id: int = 0


@dataclass
class Plan:
    """Everything that a repair does, in order.

    Attributes:
        folder: the collection.
        base: the version it starts from; it bears the newest version's number.
        is_reopened: whether that is an older one, since the newest cannot be read.
        steps: what is done.
        losses: what cannot be brought back.
        mended: the tables of the next version; None where they stay as they are.
        heal: versions whose other copy is written again.
        delete: files that go, once the next version is safe.
        embed: media files that are embedded again.
        rebuild_index: whether the index is built anew.
    """

    folder: Path
    base: Manifest
    is_reopened: bool = False
    steps: list[Step] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    mended: Mended | None = None
    heal: list[Manifest] = field(default_factory=list)
    delete: list[Path] = field(default_factory=list)
    embed: list[Path] = field(default_factory=list)
    rebuild_index: bool = False

    def do(self, action: str, path: Path, reason: str) -> None:
        """Add a step."""
        self.steps.append(Step(action, path, reason))


def plan(folder: Path, *, previous_version: bool = False) -> Plan:
    """What a repair of the collection in `folder` would do; reads every file, changes none.

    Args:
        folder: the collection.
        previous_version: open the version before, where neither copy of the newest can be read.

    Raises:
        CollectionNotFound: there is none.
        CollectionDamaged: the newest version cannot be read and `previous_version` is not asked
            for, or none can.
    """
    found = _start(folder, previous_version)
    _manifests(found)
    damages = verify.examine(folder, found.base)
    _derived(found, damages)
    problems = {damage.path: damage.problem for damage in reversed(damages)}
    damaged = [
        (file, problems[folder / file.name])
        for file in found.base.files
        if folder / file.name in problems
    ]
    if damaged or found.is_reopened:
        _Tables(found, damaged).mend()
    else:
        _waiting(found)
    for damage in damages:
        if damage.path == folder / "rows":
            found.losses.append(Loss(damage.path, f"{damage.problem}: make the collection anew"))
    _leftovers(found)
    return found


def _start(folder: Path, previous_version: bool) -> Plan:
    newest = manifest.versions(folder)[-1]
    if readable_version(folder, newest + 1) == (older := readable_version(folder, newest)):
        if older is None:
            raise CollectionDamaged(
                f"{folder}: no version of it can be read, so nothing says which of its files "
                "belong together. Restore it from a backup, or make it anew from its media."
            )
        if not previous_version:
            raise CollectionDamaged(
                f"{folder}: neither copy of its newest version, {newest}, is whole. "
                f"`perception-search repair --previous-version` opens version {older.version} "
                "and takes in again what whole files hold besides; with --dry-run it says first "
                "what that gives."
            )
        found = Plan(folder, replace(older, version=newest), is_reopened=True)
        reason = f"neither copy of version {newest} is whole"
        found.do("reopen", manifest.path_of(folder, older.version, "a"), reason)
        return found
    return Plan(folder, manifest.read(folder))


def _manifests(found: Plan) -> None:
    """Copies that have a whole twin are written again; the others go."""
    folder = found.folder
    for damage in verify.manifests(folder):
        version = int(damage.path.name[:8])
        state = readable_version(folder, version + 1)
        if state is not None and state.version == version:
            found.heal.append(state)
            found.do("heal", damage.path, damage.problem)
        elif damage.path.exists():
            found.delete.append(damage.path)
            found.do("delete", damage.path, f"{damage.problem}; its twin neither")


def _derived(found: Plan, damages: Iterable[Damage]) -> None:
    """What is made of other data: the description, the index, the cache."""
    folder = found.folder
    for damage in damages:
        if damage.path == folder / manifest.COLLECTION_FILE:
            found.do("heal", damage.path, damage.problem)
        elif damage.path == folder / text_cache.FILE:
            found.delete.append(damage.path)
            found.do("delete", damage.path, f"{damage.problem}; made anew as texts are asked again")
        elif damage.path.parent == folder / index.FOLDER:
            found.rebuild_index = True
            found.do("rebuild", damage.path, damage.problem)


def _leftovers(found: Plan) -> None:
    """What interrupted writes left; the writer sweeps it."""
    for path in sorted(found.folder.rglob(f"{durable.TEMPORARY_PREFIX}*")):
        if not path.is_file():
            continue
        found.do("delete", path, "left by a write that was interrupted")
        found.delete.append(path)


def _waiting(found: Plan) -> None:
    """What an earlier repair left to be embedded again."""
    parts = [tables.read(found.folder / file.name) for file in found.base.of("paths")]
    paths = latest(parts, "path") if parts else tables.PATHS.empty_table()
    for path, _ in _records(paths.filter(pc.equal(paths["outcome"], DAMAGED))):
        _embed_or_lose(found, [path])


def _embed_or_lose(found: Plan, paths: list[Path], lost: str = REASON) -> bool:
    """Whether one of these files of one content is there to be embedded again."""
    there = [path for path in paths if path.is_file()]
    for path in there:
        found.embed.append(path)
        found.do("embed", path, REASON)
    if not there:
        found.losses += [Loss(path, f"{lost}, and the file is not there") for path in paths]
    return bool(there)


def _records(paths: pa.Table) -> Iterator[tuple[Path, PathRecord]]:
    columns = (paths[name].to_pylist() for name in ("path", *PathRecord._fields))
    for path, *values in zip(*columns, strict=True):
        yield Path(os.fsdecode(path)), PathRecord._make(values)


class _Tables:
    """The tables of a version of which some files are damaged, put together again."""

    def __init__(self, found: Plan, damaged: list[tuple[StoredFile, str]]) -> None:
        self.found = found
        self.folder = found.folder
        self.base = found.base
        self.dim = int(found.base.collection["identity"]["dim"])
        self.named = {file.sha256 for file in found.base.files}
        self.mended = Mended(next_row_id=found.base.next_row_id)
        self.salvaged: dict[str, Salvaged] = {}
        self.damaged = [file for file, _ in damaged]
        for file, problem in damaged:
            path = self.folder / file.name
            rest = salvage(self.folder, file, self.dim)
            if file.table in ("rows", "grid"):
                parts = [_complete(part, file.table, rest.lost_contents) for part in rest.parts]
                rest = rest._replace(parts=[part for part in parts if part.num_rows])
            self.salvaged[file.sha256] = rest
            reason = f"{problem}; {rest.num_rows} of {file.num_rows} records are kept of it"
            found.do("replace", path, reason)

    def mend(self) -> None:
        """Say what the tables of the next version are, and what is missing of them."""
        found, mended = self.found, self.mended
        items, items_changed = self._records_of("items", "content_hash")
        paths, paths_changed = self._records_of("paths", "path")
        mended.kept = [
            file
            for file in self.base.files
            if file.sha256 not in self.salvaged
            and not (file.table == "items" and items_changed)
            and not (file.table == "paths" and paths_changed)
        ]
        if items_changed:
            mended.parts["items"] = [items]
        if paths_changed:
            mended.parts["paths"] = [paths]
        self._others()
        self.items = {item["content_hash"]: item for item in items.to_pylist()}
        self.paths = dict(_records(paths))
        if paths_changed:
            self._find_files()
        self._contents()
        has_rows = any(file.table == "rows" for file in self.damaged)
        current = self.folder / index.FOLDER / index.CURRENT
        is_other = has_rows or mended.dropped or found.is_reopened
        if is_other and current.exists() and not found.rebuild_index:
            found.do("rebuild", current, "its rows are others now")
            found.rebuild_index = True
        found.mended = mended

    def _records_of(self, table: str, key: str) -> tuple[pa.Table, bool]:
        """The latest records of items or paths, and whether that is not what files say by now."""
        parts: list[pa.Table] = []
        num_lost = 0
        for file in self.base.of(table):
            rest = self.salvaged.get(file.sha256)
            if rest is None:
                parts.append(tables.read(self.folder / file.name))
                continue
            parts += rest.parts
            num_lost += file.num_rows - rest.num_rows
            for name in sorted(rest.lost_columns - _OURS - set(PathRecord._fields)):
                reason = f"column {name} of {rest.num_rows} items cannot be read any more"
                self.found.losses.append(Loss(self.folder / file.name, reason))
        changed = any(file.table == table for file in self.damaged)
        num_before = _count(parts, key)
        if num_lost:
            older = [tables.read(path) for path in self._unnamed(table)]
            parts = [*older, *parts]
        elif self.found.is_reopened:
            newer = [tables.read(path) for path in self._unnamed(table) if self._is_newer(path)]
            parts += newer
            changed = changed or bool(newer)
        empty = pa.schema(tables.ITEM_FIELDS) if table == "items" else tables.PATHS
        merged = latest(parts, key) if parts else empty.empty_table()
        if num_adopted := merged.num_rows - num_before:
            what = f"{num_adopted} records of {table}, as whole files have them that no one names"
            self.found.do("adopt", self.folder / table, what)
        return merged, changed

    def _unnamed(self, table: str) -> list[Path]:
        return unnamed(self.folder, table, self.named)

    def _is_newer(self, path: Path) -> bool:
        """Whether a file came after the version that is opened again."""
        older = readable_version(self.folder, self.base.version)
        if older is None:
            return False
        copies = [manifest.path_of(self.folder, older.version, copy) for copy in manifest.COPIES]
        written = max(copy.stat().st_mtime_ns for copy in copies if copy.exists())
        return path.stat().st_mtime_ns > written

    def _others(self) -> None:
        """The other tables: what can be read stays, and what cannot be made anew is a loss."""
        for file in self.damaged:
            rest = self.salvaged[file.sha256]
            if file.table in ("items", "paths"):
                continue
            if rest.parts:
                self.mended.parts.setdefault(file.table, []).extend(rest.parts)
            num_lost = file.num_rows - rest.num_rows
            if num_lost and file.table not in ("rows", "grid"):
                reason = f"{num_lost} of its {file.num_rows} records cannot be read any more"
                self.found.losses.append(Loss(self.folder / file.name, reason))

    def _find_files(self) -> None:
        """Give contents whose paths are lost the paths where the followed folders hold them."""
        placed = {record.content_hash for record in self.paths.values()}
        homeless = {
            content_hash: item["size_bytes"]
            for content_hash, item in self.items.items()
            if item["outcome"] == "ingested" and content_hash not in placed
        }
        sizes = set(homeless.values())
        roots = [Path(root) for root in self.base.roots if Path(root).is_dir()]
        here: set[str] = set()
        for file in media.find(roots):
            if file.path in self.paths or file.outcome is not None or file.size_bytes not in sizes:
                continue
            content_hash = durable.sha256_of(file.path)
            if content_hash in homeless:
                here.add(content_hash)
                record = _record(file, content_hash)
                self.paths[file.path] = self.mended.paths[file.path] = record
                reason = "its record was damaged; in again by its content, even if it was removed"
                self.found.do("find", file.path, reason)
        for content_hash in sorted(homeless.keys() - here):
            reason = f"where the {self.items[content_hash]['kind']} {content_hash} lay"
            self.found.losses.append(
                Loss(self.folder / "paths", f"{reason} cannot be read any more; ingest it again")
            )

    def _contents(self) -> None:
        """See that every content that is in has its record, its rows and, a video, its grid."""
        live: dict[str, list[Path]] = {}
        for path, record in self.paths.items():
            if record.outcome == "ingested" and record.content_hash is not None:
                live.setdefault(record.content_hash, []).append(path)
        with_rows, with_grid = self._held("rows"), self._held("grid")
        self._recordless(with_rows - self.items.keys(), live)
        ingested = {h for h, item in self.items.items() if item["outcome"] == "ingested"}
        ingested -= self.mended.dropped
        videos = {h for h in ingested if self.items[h]["kind"] == "video"}
        without_rows = ingested - with_rows
        without_grid = videos - with_grid
        without_grid -= self._adopt_grids(without_grid)
        lacking = without_rows | without_grid
        lacking -= self._adopt_rows(without_rows - without_grid, videos)
        for content_hash in sorted(lacking):
            self._set_aside(content_hash, live.get(content_hash, []))
            _embed_or_lose(self.found, live.get(content_hash, []))
        self._incomplete(live, lacking)
        for path, record in self.paths.items():
            if record.outcome == DAMAGED and path not in self.mended.paths:
                _embed_or_lose(self.found, [path])

    def _set_aside(self, content_hash: str, paths: list[Path]) -> None:
        """Hide a content, so that an ingest embeds it again."""
        record = self.items[content_hash]
        self.mended.dropped.add(content_hash)
        self.mended.items[content_hash] = record | {
            "outcome": DAMAGED,
            "reason": REASON,
            "decoder": None,
        }
        for path in paths:
            before = self.paths[path]
            self.mended.paths[path] = before._replace(outcome=DAMAGED, reason=REASON)

    def _recordless(self, contents: set[str], live: dict[str, list[Path]]) -> None:
        """Contents with rows of which no record of an item is left."""
        if not contents:
            return
        kinds = self._kinds(contents)
        path = self.folder / next((f.name for f in self.damaged if f.table == "items"), "items")
        reason = f"your own columns of {len(contents)} items, if they had any: ingest --metadata"
        self.found.losses.append(Loss(path, reason))
        for content_hash in sorted(contents):
            size = next((self.paths[p].size_bytes for p in live.get(content_hash, [])), None)
            self.items[content_hash] = {
                "content_hash": content_hash,
                "kind": kinds[content_hash],
                "size_bytes": size,
                "outcome": "ingested",
            }
            self.mended.items[content_hash] = self.items[content_hash]
            self._again(content_hash, live, "when, where and how large it was taken")

    def _incomplete(self, live: dict[str, list[Path]], done: set[str]) -> None:
        """Items of which some columns are lost: what a file tells comes with its embedding."""
        for file in self.damaged:
            rest = self.salvaged[file.sha256]
            lost = sorted(rest.lost_columns & _OURS)
            if file.table != "items" or not lost:
                continue
            for content_hash in (h for p in rest.parts for h in p["content_hash"].to_pylist()):
                if self.items[content_hash]["outcome"] == "ingested" and content_hash not in done:
                    self._again(content_hash, live, ", ".join(lost))

    def _again(self, content_hash: str, live: dict[str, list[Path]], lost: str) -> None:
        """Embed a content again of which only the record is lost; otherwise it stays found."""
        paths = live.get(content_hash, [])
        if any(path.is_file() for path in paths):
            self._set_aside(content_hash, paths)
            _embed_or_lose(self.found, paths)
            return
        reason = f"{lost} cannot be read any more, and the file is not there; it is still found"
        self.found.losses += [Loss(path, reason) for path in paths]

    def _held(self, table: str) -> set[str]:
        """The contents that whole files of rows or grids hold, and what is kept of damaged ones."""
        columns = [
            tables.read(self.folder / file.name, ["content_hash"])["content_hash"]
            for file in self.mended.kept
            if file.table == table
        ]
        columns += [part["content_hash"] for part in self.mended.parts.get(table, [])]
        return {content_hash for column in columns for content_hash in column.unique().to_pylist()}

    def _kinds(self, contents: set[str]) -> dict[str, str]:
        kinds = {}
        parts = [
            tables.read(self.folder / file.name, ["content_hash", "scope"])
            for file in self.mended.kept
            if file.table == "rows"
        ]
        for part in [*parts, *self.mended.parts.get("rows", [])]:
            columns = (part[name].to_pylist() for name in ("content_hash", "scope"))
            for content_hash, scope in zip(*columns, strict=True):
                if content_hash in contents:
                    kinds[content_hash] = "image" if scope == "image" else "video"
        return kinds

    def _adopt_grids(self, wanted: set[str]) -> set[str]:
        """Grids of unnamed files, as they are; the contents that have one now."""
        adopted: set[str] = set()
        for path, part, contents in self._adoptable("grid", wanted):
            self.mended.parts.setdefault("grid", []).append(part)
            adopted |= contents
            self.found.do("adopt", path, f"the frames of {len(contents)} videos")
        return adopted

    def _adopt_rows(self, wanted: set[str], videos: set[str]) -> set[str]:
        """Rows of unnamed files; a video's segments are made of its grid."""
        adopted: set[str] = set()
        for path, part, contents in self._adoptable("rows", wanted):
            is_image = pc.equal(part["scope"], "image")
            self.mended.images.append(part.filter(is_image))
            whole = part.filter(pc.equal(part["scope"], "video"))
            for content_hash in contents & videos:
                mine = pc.equal(whole["content_hash"], content_hash)
                self.mended.videos[content_hash] = whole.filter(mine)
            adopted |= contents
            self.found.do("adopt", path, f"the embeddings of {len(contents)} items")
        return adopted

    def _adoptable(self, table: str, wanted: set[str]) -> Iterator[tuple[Path, pa.Table, set[str]]]:
        """Of unnamed files what belongs to the wanted contents, each content once."""
        if not wanted and not self.found.is_reopened:
            return
        left = set(wanted)
        for path in reversed(self._unnamed(table)):
            everything = tables.read(path)
            if everything.schema != tables.schema_of(table, self.dim):
                continue
            if table == "rows" and everything.num_rows:
                highest = pc.max(everything["row_id"]).as_py()
                self.mended.next_row_id = max(self.mended.next_row_id, highest + 1)
            chosen = pa.array(sorted(left), pa.string())
            part = everything.filter(pc.is_in(everything["content_hash"], value_set=chosen))
            if part.num_rows:
                contents = set(part["content_hash"].unique().to_pylist())
                left -= contents
                yield path, part, contents


def _complete(part: pa.Table, table: str, lost: frozenset[str] | None) -> pa.Table:
    """Of what is left of rows or grids what belongs to contents of which nothing is lost.

    Where nobody knows of which something is, a picture, which has one row, is as it was.
    """
    if lost is None:
        return part.filter(pc.equal(part["scope"], "image")) if table == "rows" else part[:0]
    return tables.without(part, pa.array(sorted(lost), pa.string()))


def _count(parts: list[pa.Table], key: str) -> int:
    """How many different keys there are."""
    return len(pa.chunked_array([c for p in parts for c in p[key].chunks]).unique()) if parts else 0


def _record(file: Found, content_hash: str) -> PathRecord:
    return PathRecord(file.size_bytes, file.modified_ns, file.inode, content_hash, "ingested")
