"""Small collections written straight through the writer, without media and without an encoder."""

from datetime import datetime
from pathlib import Path

import numpy as np

from perception_search.snapshot import Caption, PathRecord
from perception_search.writer import Grid, NewRow, Writer, create_folder

DIM = 16


def description(dim=DIM):
    return {
        "format": "perception_search collection",
        "schema_version": 1,
        "collection_id": "0",
        "created_at": "2026-01-01T00:00:00+00:00",
        "identity": {
            "model": "none",
            "dim": dim,
            "vision_sha256": "",
            "text_sha256": "",
            "preprocessing": "",
            "pooling": "",
        },
        "sampling": {"frames_per_second": 1.0, "num_uniform_frames": 8, "segment_seconds": 10.0},
        "weights": None,
    }


def unit(number, dim=DIM):
    """A unit vector (dim,) float32 that `number` alone decides."""
    vector = np.random.default_rng(number).standard_normal(dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


def item(number, kind="image"):
    return {
        "content_hash": f"{number:064x}",
        "kind": kind,
        "size_bytes": 1000 + number,
        "width": 100 + number,
        "height": 50,
        "outcome": "ingested",
    }


def row(number, embedding=None, scope="image", start=None, end=None):
    return NewRow(scope, unit(number) if embedding is None else embedding, 2.0, 1, start, end)


def caption(text, model="own", licence="own", prompt=None, start=None, end=None):
    return Caption(text, model, licence, datetime(2026, 1, 1), prompt, start, end)


def make(folder, count, *, first=0, grid=False, captions=False, dim=DIM):
    """A collection in `folder` (made if absent) with `count` more images, in one commit."""
    if not folder.exists():
        create_folder(folder, description(dim))
    with Writer(folder) as writer:
        for number in range(first, first + count):
            some = Grid(unit(number, dim)[None], np.ones(1), np.zeros(1)) if grid else None
            writer.add_item(item(number), [row(number, unit(number, dim))], some)
            if captions:
                writer.add_captions(f"{number:064x}", [caption(f"picture {number}")])
            path = Path(f"/photos/{number}.jpg")
            writer.add_path(path, PathRecord(1, 2, 3, f"{number:064x}", "ingested"))
        if count:
            writer.commit({"device": "cpu"})
    return folder


def add_pictures(folder, embeddings, first):
    """Pictures `first`, `first + 1`, ... with these embeddings, in one commit."""
    with Writer(folder) as writer:
        for number, embedding in enumerate(embeddings, first):
            writer.add_item(item(number), [NewRow("image", embedding, 1.0, 1, None, None)], None)
            record = PathRecord(1, 2, 3, f"{number:064x}", "ingested")
            writer.add_path(Path(f"/photos/{number}.jpg"), record)
        writer.commit()


def remove_pictures(folder, numbers):
    """Take out pictures that `add_pictures` put in."""
    with Writer(folder) as writer:
        for number in numbers:
            record = PathRecord(1, 2, 3, f"{number:064x}", "removed")
            writer.add_path(Path(f"/photos/{number}.jpg"), record)
        writer.commit()
        writer.compact()


def flipped(path, position=None, bit=0):
    """Change one bit of the byte at `position` of a file, counted from its end where negative;
    without one, of that in the middle.
    """
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1 << bit
    path.write_bytes(content)
