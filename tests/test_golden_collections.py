"""Collections as released versions wrote them are opened, answered from and written to."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden_collections.make import NUM_ITEMS, answers
from stores import make

from perception_search import durable, manifest
from perception_search.errors import CollectionDamaged
from perception_search.snapshot import Snapshot
from perception_search.verify import verify
from perception_search.writer import Writer

HERE = Path(__file__).parent / "golden_collections"
FORMATS = sorted(path.stem for path in HERE.glob("*.json"))


def test_the_present_format_is_among_them_and_they_are_small():
    assert manifest.SCHEMA_VERSION in {int(name.split("-")[0]) for name in FORMATS}
    for name in FORMATS:
        files = [path for path in (HERE / name).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 100_000


@pytest.mark.parametrize("name", FORMATS)
def test_a_collection_of_every_format_answers_as_it_did(tmp_path, name):
    folder = tmp_path / "c.ps"
    shutil.copytree(HERE / name, folder)
    expected = json.loads((HERE / f"{name}.json").read_text())
    snapshot = Snapshot.open(folder)
    assert answers(snapshot) == expected
    assert verify(folder) == []
    hashes = snapshot.rows.content_hash.to_pylist()
    said = [caption.text for some in snapshot.captions_of(hashes).values() for caption in some]
    assert sorted(said) == sorted(f"picture {n}" for n in range(NUM_ITEMS))
    assert len(list(snapshot.grids)) == NUM_ITEMS
    make(folder, NUM_ITEMS, first=500)
    grown = Snapshot.open(folder)
    assert len(grown.rows) == 2 * NUM_ITEMS
    assert verify(folder) == []
    with Writer(folder) as writer:
        writer.compact()
        assert len(writer.snapshot.manifest.of("rows")) == 1, "old files and new ones in one"
    assert verify(folder) == []
    merged = Snapshot.open(folder)
    assert np.array_equal(merged.rows.norm, grown.rows.norm)


def test_a_newer_format_is_refused_by_its_number(tmp_path):
    folder = make(tmp_path / "c.ps", 1)
    state = manifest.read(folder)
    newer = manifest.SCHEMA_VERSION + 41
    told = dict(state.collection) | {"schema_version": newer}
    manifest.write(folder, replace(state, version=state.version + 1, collection=told))
    durable.write(folder / manifest.COLLECTION_FILE, manifest.encode_collection(told))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    sentence = f"has format {newer}; this program reads {manifest.SCHEMA_VERSION}"
    with pytest.raises(CollectionDamaged, match=sentence):
        Snapshot.open(folder)
    with pytest.raises(CollectionDamaged, match=sentence), Writer(folder):
        pass
    for path, content in before.items():
        assert path.read_bytes() == content, "what is refused is left as it was"
