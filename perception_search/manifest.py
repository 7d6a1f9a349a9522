"""The list of files that make one version of a collection; knows no table's content.

A version is one manifest, written twice (`00000042.a.json`, `00000042.b.json`). The highest number
that has any file is the state, if either copy verifies: a manifest is synced before it is renamed,
so one that can be seen and does not verify is damage, never a torn write.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perception_search import durable
from perception_search.errors import CollectionDamaged, CollectionNotFound

FOLDER = "manifests"
COLLECTION_FILE = "collection.json"
COPIES = ("a", "b")
TABLES = ("rows", "grid", "items", "paths", "captions")
NEXT = "next"
"""Folder of a collection of its own: a move to another model that is under way."""
CACHE, THUMBNAILS = "cache", "thumbnails"
"""Folders of what was derived from items or asked, and may be deleted at any time."""

SCHEMA_VERSION = 1
NUM_KEPT = 3

_NAME = re.compile(r"(\d{8})\.([ab])\.json")


@dataclass(frozen=True)
class StoredFile:
    """One immutable Parquet file: `<table>/<sha256>.parquet`.

    Attributes:
        table: one of `TABLES`.
        sha256: of the whole file; also its name.
        size_bytes: of the whole file.
        num_rows: rows of the table in it.
        provenance: for rows, how they came to be (device, dtype, decoder, versions), each once.
        footer_sha256: of its footer, for those who do not read the whole file; empty where it
            was written before there was this.
    """

    table: str
    sha256: str
    size_bytes: int
    num_rows: int
    provenance: tuple[Mapping[str, str], ...] = ()
    footer_sha256: str = ""

    @property
    def name(self) -> str:
        """Its path inside the collection."""
        return f"{self.table}/{self.sha256}.parquet"


@dataclass(frozen=True)
class Manifest:
    """One version of a collection.

    Attributes:
        version: counts up by one with every commit.
        collection: what `collection.json` says: identity and sampling, fixed at creation.
        next_row_id: the first id not yet given; ids are never reused.
        files: the live files, oldest first: of two entries for one key the later wins.
        roots: folders that were ingested, as absolute paths.
        segmentation: which stretches of videos the segment rows are; empty in collections that
            were made when it was fixed at creation.
    """

    version: int
    collection: Mapping[str, Any]
    next_row_id: int = 0
    files: tuple[StoredFile, ...] = ()
    roots: tuple[str, ...] = field(default=())
    segmentation: Mapping[str, Any] = field(default_factory=dict)

    def of(self, table: str) -> list[StoredFile]:
        """The files of one table, oldest first."""
        return [file for file in self.files if file.table == table]

    def encode(self) -> bytes:
        """The exact bytes of both copies: sorted JSON with a SHA-256 of itself."""
        return _sealed(asdict(self))

    @staticmethod
    def decode(content: bytes) -> "Manifest":
        """The manifest in `content`.

        Raises:
            ValueError: a byte is not as it was written.
        """
        try:
            body = json.loads(content)["body"]
            whole = _sealed(body) == content
            files = tuple(
                StoredFile(**_known(StoredFile, file) | {"provenance": tuple(file["provenance"])})
                for file in body["files"]
            )
            lists = {"files": files, "roots": tuple(body["roots"])}
            manifest = Manifest(**_known(Manifest, body) | lists)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a manifest: {error}") from error
        if not whole:
            raise ValueError("its checksum does not match")
        return manifest


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a later program says that an earlier one can do without."""
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


def _sealed(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"body":{text},"sha256":"{checksum}"}}\n'.encode()


def path_of(folder: Path, version: int, copy: str) -> Path:
    """Where one copy of a version lies."""
    return folder / FOLDER / f"{version:08d}.{copy}.json"


def versions(folder: Path) -> list[int]:
    """Every version that has at least one copy, ascending.

    Raises:
        CollectionNotFound: there is no collection in `folder`.
    """
    try:
        names = [path.name for path in (folder / FOLDER).iterdir()]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CollectionNotFound(
            f"{folder} is not a collection. Make one with: perception-search create {folder}"
        ) from error
    found = sorted({int(match[1]) for name in names if (match := _NAME.fullmatch(name))})
    if not found:
        raise CollectionDamaged(f"{folder} holds no manifest: its list of files is gone.")
    return found


def read_copy(folder: Path, version: int, copy: str) -> Manifest:
    """One copy of one version.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    manifest = Manifest.decode(path_of(folder, version, copy).read_bytes())
    if manifest.version != version:
        raise ValueError(f"it holds version {manifest.version}")
    return manifest


def read(folder: Path) -> Manifest:
    """The newest version.

    Raises:
        CollectionNotFound: there is no collection in `folder`.
        CollectionDamaged: neither copy of the newest version is whole.
    """
    newest = versions(folder)[-1]
    problems = []
    for copy in COPIES:
        try:
            manifest = read_copy(folder, newest, copy)
        except FileNotFoundError:
            problems.append("missing")
        except (OSError, ValueError) as error:
            problems.append(str(error))
        else:
            if manifest.collection.get("schema_version") != SCHEMA_VERSION:
                raise CollectionDamaged(
                    f"{folder} has format {manifest.collection.get('schema_version')}; "
                    f"this program reads {SCHEMA_VERSION}: use the version that made it."
                )
            return manifest
    names = " nor ".join(path_of(folder, newest, copy).name for copy in COPIES)
    raise CollectionDamaged(
        f"{folder}: neither {names} is whole ({'; '.join(problems)}). "
        f"Nothing older was opened in its place, so that no file is lost in silence."
    )


def coming(folder: Path, manifest: Manifest) -> Manifest | None:
    """That of a move to another model that is under way; None where there is none, or it is
    completed and was not tidied up.

    Args:
        folder: the collection.
        manifest: its newest version.

    Raises:
        CollectionDamaged: neither copy of it is whole.
    """
    try:
        found = read(folder / NEXT)
    except CollectionNotFound:
        return None
    is_other = found.collection["identity"] != manifest.collection["identity"]
    return found if is_other else None


def write(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` the newest version; returns when both copies are safe on disk."""
    content = manifest.encode()
    for copy in COPIES:
        durable.write(path_of(folder, manifest.version, copy), content)


def describe(
    identity: Mapping[str, Any],
    sampling: Mapping[str, Any],
    *,
    weights: Path | None = None,
    projection: Path | None = None,
) -> dict[str, Any]:
    """What `collection.json` says of a new collection.

    Args:
        identity: model, weights and preprocessing, as `Identity.as_dict`.
        sampling: which frames of videos are looked at.
        weights: where the model's weights were, if not on the hub.
        projection: where the file was that has what they lack.
    """
    return {
        "format": "perception_search collection",
        "schema_version": SCHEMA_VERSION,
        "collection_id": uuid.uuid4().hex,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": identity,
        "sampling": sampling,
        "weights": str(weights) if weights is not None else None,
        "projection": str(projection) if projection is not None else None,
    }


def encode_collection(collection: Mapping[str, Any]) -> bytes:
    """The exact bytes of `collection.json`, for people to read; every manifest holds the same."""
    return (json.dumps(collection, sort_keys=True, indent=2) + "\n").encode()


def heal(folder: Path, manifest: Manifest) -> None:
    """Write again what is missing or damaged of the newest version and of `collection.json`."""
    described = encode_collection(manifest.collection)
    if not _holds(folder / COLLECTION_FILE, described):
        durable.write(folder / COLLECTION_FILE, described)
    content = manifest.encode()
    for copy in COPIES:
        path = path_of(folder, manifest.version, copy)
        if not _holds(path, content):
            durable.write(path, content)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
