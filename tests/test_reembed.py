"""Reembed: the old model answers until the new one is complete, and nothing is lost on the way."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from fakes import ColourEncoder, OtherEncoder
from media_folder import write_pictures, write_videos
from stops import stopping_after
from stores import flipped

from perception_search import (
    Collection,
    Segmentation,
    current_index,
    index,
    manifest,
    own_encoder,
)
from perception_search.errors import CollectionError
from perception_search.manifest import NEXT
from perception_search.reembed import reembed as move
from perception_search.snapshot import Snapshot
from perception_search.verify import verify
from perception_search.writer import Writer

EVERY = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
"""Stop at every durable operation, not at every twenty-ninth."""


@pytest.fixture
def made(tmp_path):
    """A collection of 9 pictures, one of them removed, and a video; with an index; its media."""
    media = write_pictures(tmp_path / "media", 9)
    write_videos(media / "v", 1, seconds=12)
    photos = Collection.create(tmp_path / "photos.ps", encoder=ColourEncoder())
    files = sorted(media.rglob("*.jpg"))
    own = pd.DataFrame({"path": map(str, files), "album": [f"album {n % 2}" for n in range(9)]})
    photos.ingest(media, metadata=own)
    photos.remove(files[3])
    with Writer(photos.path) as writer:
        current_index.build(writer, index.recipe("Flat"))
    return photos.path, media, files


def found(path, encoder, **how):
    hits = Collection.open(path, encoder=encoder).search("red", k=30, **how)
    return sorted((str(hit.path), round(hit.score, 3)) for hit in hits)


def as_new(tmp_path, media, encoder, without=()):
    """What a collection finds that was made with the new model from the beginning."""
    photos = Collection.create(tmp_path / "fresh.ps", encoder=encoder)
    photos.ingest(media)
    for path in without:
        photos.remove(path)
    return found(photos.path, encoder)


@pytest.mark.parametrize("dim", [32, 64])
def test_afterwards_it_is_as_if_made_with_the_new_model(made, tmp_path, dim):
    path, media, files = made
    old = Snapshot.open(path)
    expected = as_new(tmp_path, media, OtherEncoder(dim), without=[files[3]])
    plans = []
    move(path, OtherEncoder(dim), on_plan=plans.append)
    [plan] = plans
    assert (plan.model, plan.dim, plan.num_files, plan.missing) == ("others", dim, 9, [])
    assert found(path, OtherEncoder(dim)) == expected
    assert len(found(path, OtherEncoder(dim), where="album = 'album 1'")) == 3
    assert {file for file, _ in found(path, OtherEncoder(dim), moments=True)} == {
        str(media / "v" / "000000.mp4")
    }
    assert verify(path) == []
    new = Snapshot.open(path)
    assert new.version > old.version
    assert new.manifest.roots == old.manifest.roots
    assert new.path_records == old.path_records, "what was removed stays out"
    assert new.rows.row_id.min() >= old.manifest.next_row_id, "no id is given twice"
    assert index.read_record(path).dim == dim
    assert not (path / NEXT).exists()
    again = Collection.open(path, encoder=OtherEncoder(dim))
    assert again.ingest(media).counts()["unchanged"] == 9
    assert again.ingest(files[3]).ingested == 1, "its old embedding is gone, a new one is made"
    assert len(again.search("red", k=30)) == 10
    with pytest.raises(CollectionError, match="has this model"):
        move(path, OtherEncoder(dim))


def test_meanwhile_the_old_one_answers_and_files_come_and_go(made, monkeypatch):
    path, media, files = made
    before = found(path, ColourEncoder())
    reader = Collection.open(path, encoder=ColourEncoder())
    happened = []

    def meanwhile(_done, _total):
        if happened:
            return
        happened.append(True)
        assert found(path, ColourEncoder()) == before
        write_pictures(media / "more", 3, first=50)
        files[0].unlink()
        old = Collection.open(path, encoder=ColourEncoder())
        assert old.ingest(media).counts()["ingested"] == 3
        old.resegment(Segmentation(seconds=5))
        assert len(reader.search("red", k=30)) == 11

    encoder = OtherEncoder()
    move(path, encoder, on_progress=meanwhile)
    assert happened
    live = {str(p) for ps in Snapshot.open(path).live_paths.values() for p in ps}
    assert {file for file, _ in found(path, encoder)} == live
    assert len(live) == 11
    assert Collection.open(path, encoder=encoder).segmentation == Segmentation(seconds=5)
    assert (Snapshot.open(path).rows.scope == 1).sum() == 3
    assert verify(path) == []


def test_a_reader_from_before_loads_the_new_model(made, monkeypatch):
    """Of the same dimension: a mix would not be noticed by its shape."""
    path, _, _ = made
    encoders = {"colours": ColourEncoder(), "others": OtherEncoder(64)}
    monkeypatch.setattr(own_encoder, "load_encoder", lambda model, **_: encoders[model])
    reader = Collection.open(path)
    assert len(reader.search("red", k=30)) == 9
    move(path, encoders["others"])
    new = sorted((str(hit.path), round(hit.score, 3)) for hit in reader.search("red", k=30))
    assert new == found(path, encoders["others"])
    assert reader.identity.model == "others"
    fixed = Collection.open(path, encoder=ColourEncoder())
    with pytest.raises(CollectionError, match="holds others rows"):
        fixed.search("blue")


def test_missing_files_are_said_before_and_left_out_only_on_request(made, tmp_path):
    path, media, files = made
    away = tmp_path / "away.jpg"
    files[2].rename(away)
    before = found(path, ColourEncoder())
    with pytest.raises(CollectionError, match=r"1 files are not there.*--drop-missing"):
        move(path, OtherEncoder())
    assert not (path / NEXT).exists(), "nothing was begun"
    assert found(path, ColourEncoder()) == before
    move(path, OtherEncoder(), drop_missing=True)
    assert len(found(path, OtherEncoder())) == 8
    assert verify(path) == []
    away.rename(files[2])
    report = Collection.open(path, encoder=OtherEncoder()).ingest(media)
    assert report.ingested == 1, "it comes back"
    assert len(found(path, OtherEncoder())) == 9
    assert len(found(path, OtherEncoder(), where="album = 'album 0'")) == 5, "with its columns"


def test_a_file_that_changed_since_is_taken_as_it_is_now(made):
    path, media, files = made
    shutil.copy(write_pictures(media.parent / "x", 1, first=70) / "0000" / "000070.jpg", files[1])
    move(path, OtherEncoder())
    assert len(found(path, OtherEncoder())) == 9
    assert verify(path) == []
    assert Collection.open(path, encoder=OtherEncoder()).ingest(media).ingested == 0


def test_another_move_is_refused_while_one_is_under_way(made):
    path, _, _ = made

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(path, OtherEncoder(), on_progress=stop)
    with pytest.raises(CollectionError, match=r"to others is under way.*--restart"):
        move(path, ColourEncoder(seed=4))
    move(path, ColourEncoder(seed=4), restart=True)
    assert len(found(path, ColourEncoder(seed=4))) == 9


def test_stopped_at_any_operation_it_goes_on(made, tmp_path):
    path, media, files = made
    expected = as_new(tmp_path, media, OtherEncoder(), without=[files[3]])
    before = found(path, ColourEncoder())
    number = 0
    while True:
        copy = tmp_path / "copy.ps"
        shutil.copytree(path, copy)
        with stopping_after(number) as stop:
            move(copy, OtherEncoder())
        model = Snapshot.open(copy).manifest.collection["identity"]["model"]
        assert verify(copy, quick=True) == [] or model == "others"
        if model == "colours":
            assert found(copy, ColourEncoder()) == before
            move(copy, OtherEncoder())
        assert found(copy, OtherEncoder()) == expected
        with Writer(copy):
            pass  # heals what the last commit left, as any writer does
        assert verify(copy) == []
        shutil.rmtree(copy)
        if not stop.stopped:
            break
        number += 1 if EVERY else 29
    assert number > 60


def test_a_purge_reaches_into_a_move_that_is_under_way(made):
    path, _, files = made
    removed = Snapshot.open(path).path_records[files[5]].content_hash

    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(path, OtherEncoder(), on_progress=stop)
    photos = Collection.open(path, encoder=ColourEncoder())
    assert photos.info()["moving_to"] == {"model": "others", "items": 9}
    hashes = set(Snapshot.open(path / NEXT).rows.content_hash.to_pylist())
    assert removed in hashes
    photos.remove(files[5])
    photos.purge()
    left = Snapshot.open(path / NEXT)
    assert removed not in set(left.rows.content_hash.to_pylist())
    assert np.isin(left.items["content_hash"].to_pylist(), [removed]).sum() == 0
    move(path, OtherEncoder())
    assert len(found(path, OtherEncoder())) == 8
    assert photos.info()["moving_to"] is None


def test_what_is_damaged_of_a_move_under_way_is_named_and_made_anew(run, made, tmp_path):
    path, _, _ = made

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(path, OtherEncoder(), on_progress=stop)
    assert verify(path) == []
    code, out, _ = run("info", path)
    assert code == 0
    assert "moving to   others: " in out
    coming = Snapshot.open(path / NEXT)
    manifest.path_of(path / NEXT, coming.version, "b").unlink()
    assert verify(path) == [], "what heals by itself is no reason to throw away what is embedded"
    damaged = path / NEXT / coming.manifest.of("items")[0].name
    flipped(damaged)
    [damage] = verify(path)
    assert damage.path == damaged
    assert "reembed --restart" in damage.remedy
    assert Collection.open(path).info()["moving_to"] is None, "it cannot be read"
    with pytest.raises(CollectionError, match="does not hold what was written"):
        move(path, OtherEncoder())
    move(path, OtherEncoder(), restart=True)
    assert verify(path) == []
    shutil.copytree(path, tmp_path / "copy.ps")
    shutil.copytree(tmp_path / "copy.ps", path / NEXT)  # a move that ended before it was tidied up
    flipped(path / NEXT / Snapshot.open(path).manifest.of("items")[0].name)
    assert Collection.open(path).info()["moving_to"] is None
    assert verify(path) == []


def test_reembed_says_what_it_takes_first(run, made, monkeypatch):
    path, _, files = made
    monkeypatch.setattr("perception_search.encoder.load_encoder", lambda *_, **__: OtherEncoder())
    files[2].unlink()
    code, out, err = run("reembed", path, "--model", "others", "--dry-run")
    assert code == 0
    assert out.splitlines()[0].startswith("9 files from colours (dim 64) to others (dim 32), 0 emb")
    assert out.splitlines()[1] == f"missing  {files[2]}"
    assert Snapshot.open(path).manifest.collection["identity"]["model"] == "colours"
    code, _, err = run("reembed", path, "--model", "others")
    assert code == 1
    assert "leave them out with --drop-missing" in err
    code, out, _ = run("reembed", path, "--model", "others", "--drop-missing", "--json")
    assert code == 0
    plan, described = (json.loads(line) for line in out.splitlines())
    assert (plan["num_files"], plan["num_done"], plan["missing"]) == (9, 0, [str(files[2])])
    assert described["model"] == "others"
    code, _, err = run("reembed", path, "--model", "others")
    assert code == 1
    assert "has this model and these weights already" in err
