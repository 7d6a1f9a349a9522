"""Ingest: what is new is embedded, what is known is not opened, nothing is lost or silent."""

import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from fakes import ColourEncoder
from media_folder import colour, picture, write_pictures, write_video
from PIL import Image

from perception_search import Collection, Sampling, Segmentation
from perception_search.encoder.protocol import Identity
from perception_search.errors import CollectionMismatch
from perception_search.snapshot import Snapshot


@pytest.fixture
def encoder():
    return ColourEncoder()


@pytest.fixture
def photos(tmp_path, encoder):
    return Collection.create(tmp_path / "photos.ps", encoder=encoder)


@pytest.fixture
def media(tmp_path):
    return write_pictures(tmp_path / "media", 10)


def outcomes(collection, *sources, **how):
    """Outcome of every file by name, as reported after its commit."""
    seen = {}

    def on_commit(files):
        for file in files:
            assert file.path not in seen, "every file has exactly one outcome"
            seen[file.path] = file.outcome

    report = collection.ingest(sources, on_commit=on_commit, **how)
    counted = report.counts()
    assert sum(counted.values()) == len(seen)
    return {path.name: outcome for path, outcome in seen.items()}


def counts(report):
    return {name: count for name, count in report.counts().items() if count}


def test_every_stored_row_is_what_the_encoder_gives(photos, media, encoder):
    assert counts(photos.ingest(media, fast_jpeg=False)) == {"ingested": 10}
    snapshot = photos.snapshot
    by_path = {
        paths[0]: position
        for content_hash, paths in snapshot.live_paths.items()
        for position in np.flatnonzero(
            np.array(snapshot.rows.content_hash.to_pylist()) == content_hash
        )
    }
    for path, position in by_path.items():
        pixels = np.asarray(Image.open(path).resize((16, 16), Image.Resampling.BILINEAR))
        raw = encoder.encode_frames(pixels.transpose(2, 0, 1)[None])[0]
        stored = snapshot.rows.embeddings(np.array([position]))[0]
        assert stored @ raw / np.linalg.norm(raw) / np.linalg.norm(stored) > 0.99999
        assert snapshot.rows.norm[position] == pytest.approx(np.linalg.norm(raw), rel=1e-5)


def test_the_second_run_embeds_nothing(photos, media, encoder):
    photos.ingest(media)
    encoder.num_frames = 0
    version = photos.snapshot.version
    assert counts(photos.ingest(media)) == {"unchanged": 10}
    assert encoder.num_frames == 0
    assert photos.snapshot.version == version, "nothing new, nothing written"
    assert counts(photos.ingest(media, checksum=True)) == {"unchanged": 10}
    assert encoder.num_frames == 0


def test_copies_and_renamed_files_are_not_embedded_again(photos, media, encoder):
    photos.ingest(media)
    encoder.num_frames = 0
    first, second, *_ = sorted(media.rglob("*.jpg"))
    shutil.copy(first, media / "copy.jpg")
    second.rename(media / "renamed.jpg")
    seen = outcomes(photos, media)
    assert seen["copy.jpg"] == "duplicate"
    assert seen["renamed.jpg"] == "unchanged"
    assert seen[second.name] == "removed"
    assert encoder.num_frames == 0
    paths = {path.name for paths in photos.snapshot.live_paths.values() for path in paths}
    assert {"copy.jpg", "renamed.jpg", first.name} <= paths
    assert second.name not in paths
    assert len(photos.search("red", k=100)) == 10


def test_twins_in_one_run_are_embedded_once(photos, tmp_path, encoder):
    media = tmp_path / "twins"
    media.mkdir()
    for number in range(30):
        Image.fromarray(picture(number % 3)).save(media / f"{number}.png")
    assert counts(photos.ingest(media)) == {"ingested": 3, "duplicate": 27}
    assert encoder.num_frames == 3


def test_a_changed_file_is_embedded_again_and_the_old_content_hidden(photos, media):
    photos.ingest(media)
    first = sorted(media.rglob("*.jpg"))[0]
    Image.fromarray(colour((255, 0, 0))).save(first)
    assert counts(photos.ingest(media)) == {"ingested": 1, "unchanged": 9}
    assert len(photos.search("red", k=100)) == 10
    assert photos.search("red", k=1)[0].path == first


def test_content_that_moved_on_is_no_duplicate_of_where_it_was(photos, media):
    photos.ingest(media)
    first = sorted(media.rglob("*.jpg"))[0]
    first.rename(media / "a_renamed.jpg")
    Image.fromarray(colour((0, 255, 0))).save(first)
    seen = outcomes(photos, media)
    assert seen[first.name] == "ingested"
    assert seen["a_renamed.jpg"] in ("unchanged", "duplicate")
    assert len(photos.search("red", k=100)) == 11


def test_vanished_files_are_hidden_and_come_back_without_embedding(photos, media, encoder):
    photos.ingest(media)
    first = sorted(media.rglob("*.jpg"))[0]
    aside = media.parent / "aside.jpg"
    first.rename(aside)
    assert outcomes(photos, media)[first.name] == "removed"
    assert len(photos.search("red", k=100)) == 9
    aside.rename(first)
    encoder.num_frames = 0
    assert counts(photos.ingest(media)) == {"unchanged": 10}
    assert encoder.num_frames == 0
    assert len(photos.search("red", k=100)) == 10


def test_ingesting_another_folder_removes_nothing(photos, media, tmp_path):
    photos.ingest(media)
    other = write_pictures(tmp_path / "other", 3, first=100)
    assert counts(photos.ingest(other)) == {"ingested": 3}
    assert len(photos.search("red", k=100)) == 13


def test_an_unmounted_disk_hides_nothing(photos, tmp_path):
    media = write_pictures(tmp_path / "disk", 40)
    photos.ingest(media)
    shutil.rmtree(media / "0000")
    report = photos.ingest(media)
    assert (report.removed, report.kept) == (0, 40)
    assert len(photos.search("red", k=100)) == 40
    shutil.rmtree(media)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        photos.ingest(media)
    assert len(photos.search("red", k=100)) == 40
    media.mkdir()
    assert photos.ingest(media, allow_removals=True).removed == 40
    assert photos.search("red", k=100) == []


def test_what_cannot_be_read_is_reported_once_and_not_opened_again(photos, media, tmp_path):
    (media / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (media / "notes.txt").write_text("no picture at all")
    (media / "list.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/a.ts\n")
    os.mkfifo(media / "pipe.jpg")
    seen = outcomes(photos, media)
    assert seen["broken.jpg"] == "unreadable"
    assert seen["notes.txt"] == "skipped"
    assert seen["list.mp4"] == "playlist"
    assert seen["pipe.jpg"] == "not_a_file"
    failed = {failure.path.name: failure for failure in photos.failures()}
    assert set(failed) == {"broken.jpg", "list.mp4", "pipe.jpg"}
    assert all(failure.reason for failure in failed.values())
    plan = photos.survey(media)
    assert list(plan.to_read) == []
    assert outcomes(photos, media)["broken.jpg"] == "unreadable"
    assert [p.name for p in photos.survey(media, retry_failed=True).to_read] == [
        "broken.jpg",
        "list.mp4",
    ]
    Image.fromarray(picture(5000)).save(media / "broken.jpg")
    assert outcomes(photos, media)["broken.jpg"] == "ingested"
    assert [f.path.name for f in photos.failures()] == ["list.mp4", "pipe.jpg"]
    for name in ("list.mp4", "pipe.jpg", "notes.txt"):
        (media / name).unlink()
    assert photos.ingest(media).removed == 0, "they never were in"
    assert photos.failures() == []


def test_a_bad_embedding_costs_one_file(photos, media, encoder, monkeypatch):
    real = encoder.encode_frames

    def sometimes_bad(pixels):
        raw = real(pixels)
        raw[0] = np.nan
        return raw

    monkeypatch.setattr(encoder, "encode_frames", sometimes_bad)
    report = photos.ingest(media)
    assert report.ingested == 9
    assert [failure.outcome for failure in report.failed] == ["bad_embedding"]
    assert np.isfinite(photos.snapshot.rows.embeddings(np.arange(9))).all()


def test_another_encoder_is_refused_and_both_are_shown(photos, media):
    other = Collection.open(photos.path, encoder=ColourEncoder(seed=1))
    with pytest.raises(CollectionMismatch, match="vision_sha256"):
        other.ingest(media)
    with pytest.raises(CollectionMismatch, match="text_sha256"):
        other.search("red")
    small = Collection.open(photos.path, encoder=ColourEncoder(dim=32))
    with pytest.raises(CollectionMismatch, match=r"dim 64.*dim 32"):
        small.ingest(media)


@pytest.mark.parametrize("changed", [field.name for field in fields(Identity)])
def test_an_encoder_that_is_another_in_one_thing_is_refused(photos, media, changed):
    photos.ingest(media)
    before = photos.snapshot.version
    known = photos.info()[changed]
    another = known + 1 if changed == "dim" else f"{known} another"

    class Another(ColourEncoder):
        @property
        def identity(self):
            return replace(super().identity, **{changed: another})

    other = Collection.open(photos.path, encoder=Another())
    asked = [lambda: other.ingest(media)]
    if changed == "text_sha256":
        asked = []
    if changed not in ("vision_sha256", "preprocessing", "pooling"):
        asked.append(lambda: other.search("red"))
    if changed != "text_sha256":
        asked.append(lambda: other.search(images=[next(media.rglob("*.jpg"))]))
    for ask in asked:
        with pytest.raises(CollectionMismatch) as told:
            ask()
        for value in (known, another):
            assert str(value)[:12] in str(told.value)
    assert Snapshot.open(photos.path).version == before


def test_the_callers_own_columns_can_be_filtered_by(photos, media):
    files = sorted(media.rglob("*.jpg"))
    frame = pd.DataFrame({"path": map(str, files), "album": ["a"] * 4 + ["b"] * 6, "n": range(10)})
    photos.ingest(media, metadata=frame.iloc[:8])
    assert len(photos.search("red", k=100, where="album = 'a'")) == 4
    photos.ingest(media, metadata=frame)
    assert len(photos.search("red", k=100, where="album = 'b' AND n > 7")) == 2
    assert set(photos.items("album = 'b'")["n"]) == {4, 5, 6, 7, 8, 9}
    with pytest.raises(ValueError, match="one must be named 'path'"):
        photos.ingest(media, metadata=frame.drop(columns="path"))
    with pytest.raises(ValueError, match="which are ours"):
        photos.ingest(media, metadata=frame.assign(kind="x"))


def test_removing_by_hand_lasts_until_the_file_is_named(photos, media):
    photos.ingest(media)
    first, second, *_ = sorted(media.rglob("*.jpg"))
    assert photos.remove(first) == [first]
    assert photos.remove(where=f"name = '{second.name}'") == [second]
    assert len(photos.search("red", k=100)) == 8
    assert counts(photos.ingest(media)) == {"unchanged": 8, "skipped": 2}
    assert counts(photos.ingest(first)) == {"unchanged": 1}
    assert len(photos.search("red", k=100)) == 9


def test_odd_names_are_kept_exactly(photos, tmp_path):
    media = tmp_path / "odd"
    media.mkdir()
    names = [b"caf\xe9.png", b"new\nline.png", b"\x1b[31mred.png", b"a'b\";--.png", b"x" * 200]
    for number, name in enumerate(names):
        path = Path(os.fsdecode(os.fsencode(media) + b"/" + name))
        with path.open("wb") as file:
            Image.fromarray(picture(number)).save(file, "PNG")
    assert photos.ingest(media).ingested == 5
    found = {os.fsencode(hit.path.name) for hit in photos.search("red", k=10)}
    assert found == set(names)
    assert counts(photos.ingest(media)) == {"unchanged": 5}
    shown = set(photos.items()["name"])
    assert {"caf\\xe9.png", "new\\nline.png"} <= shown


# Videos


def test_a_video_of_a_still_scores_as_the_still(photos, tmp_path):
    media = tmp_path / "still"
    media.mkdir()
    write_video(media / "still.mp4", [picture(3, (64, 64))] * 50)
    with av.open(str(media / "still.mp4")) as video:  # what the codec made of the picture
        next(video.decode(video=0)).to_image().save(media / "still.png")
    photos.ingest(media)
    for query in ("red", "green", "dark"):
        first, second = photos.search(query, k=2)
        assert abs(first.score - second.score) < 0.01
    [hit] = photos.similar(media / "still.mp4")
    assert hit.path.name == "still.png"
    assert hit.score > 0.999


def test_a_looped_video_scores_as_its_short_form(photos, tmp_path):
    media = tmp_path / "loop"
    media.mkdir()
    frames = [colour((25 * (n // 5), 100, 250 - 25 * (n // 5)), (64, 64)) for n in range(50)]
    write_video(media / "short.mp4", frames)
    write_video(media / "long.mp4", frames * 60)
    photos.ingest(media)
    snapshot = photos.snapshot
    durations = dict(
        zip(
            snapshot.shown_items["name"].to_pylist(),
            snapshot.live_items["duration_seconds"].to_pylist(),
            strict=True,
        )
    )
    assert durations["short.mp4"] == pytest.approx(10, abs=0.3)
    assert durations["long.mp4"] == pytest.approx(600, abs=1)
    for query in ("red", "blue", "bright"):
        short, long = photos.search(query, k=2)
        assert abs(short.score - long.score) < 0.01


def test_k_counts_items_not_segments(photos, tmp_path):
    media = write_pictures(tmp_path / "many", 20)
    red = [colour((250 - n % 3, 0, 0), (32, 32)) for n in range(3000)]
    write_video(media / "red.mp4", red, fps=1)
    collection = Collection.create(
        tmp_path / "short.ps", encoder=ColourEncoder(), segmentation=Segmentation(seconds=5)
    )
    collection.ingest(media)
    assert (collection.snapshot.rows.scope == 1).sum() == 600
    hits = collection.search("red", k=10)
    assert len({hit.path for hit in hits}) == len(hits) == 10
    assert hits[0].path.name == "red.mp4"


def test_segments_are_the_means_of_their_frames(photos, tmp_path, encoder):
    media = tmp_path / "parts"
    media.mkdir()
    frames = [
        colour(c, (64, 64)) for c in ((250, 0, 0), (0, 250, 0), (0, 0, 250)) for _ in range(50)
    ]
    write_video(media / "parts.mp4", frames)
    photos.ingest(media)
    for query, start in (("red", 0.0), ("green", 10.0), ("blue", 20.0)):
        [hit] = photos.search(query, k=1)
        assert (hit.start_seconds, hit.end_seconds) == (start, start + 10)
        assert hit.score > 0.95
    rows = photos.snapshot.rows
    assert rows.num_frames.tolist() == [10, 10, 10, 8]
    assert rows.norm[:3] == pytest.approx([1, 1, 1], abs=1e-3)
    assert rows.norm[3] < 0.9, "the whole video's mean keeps its length"


def test_interrupting_keeps_what_was_finished(photos, media, encoder, monkeypatch):
    real = encoder.encode_frames
    calls = 0

    def stop_at_the_second(pixels):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(pixels)

    monkeypatch.setattr(type(encoder), "batch_size", property(lambda _: 4))
    monkeypatch.setattr(encoder, "encode_frames", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        photos.ingest(media)
    kept = len(photos.snapshot.rows)
    assert 1 <= kept < 10
    monkeypatch.setattr(encoder, "encode_frames", real)
    assert counts(photos.ingest(media)) == {"ingested": 10 - kept, "unchanged": kept}


def test_key_frames_alone_are_looked_at_where_the_collection_says_so(tmp_path, encoder):
    media = tmp_path / "media"
    media.mkdir()
    write_video(media / "a.mp4", [picture(n, (64, 48)) for n in range(60)], fps=5)
    collection = Collection.create(
        tmp_path / "k.ps", encoder=encoder, sampling=Sampling(grid="keyframes")
    )
    with pytest.raises(ValueError, match="take pyav"):
        collection.ingest(media, video_backend="torchcodec")
    assert counts(collection.ingest(media)) == {"ingested": 1}
    assert Collection.open(collection.path).sampling.grid == "keyframes"
    [content_hash] = collection.snapshot.grids
    assert len(collection.snapshot.grids.of(content_hash).pts_seconds) == 12
    assert collection.snapshot.cuts_of(content_hash) is None


def test_a_moment_scores_as_a_picture_of_the_same_does(photos, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    frames = [colour(c, (64, 64)) for c in ((0, 0, 240), (240, 0, 0)) for _ in range(75)]
    write_video(media / "both.mp4", frames)
    Image.fromarray(frames[-1]).save(media / "red.png")
    photos.ingest(media)
    [moment] = photos.search("red", k=1, moments=True)
    [still] = [hit for hit in photos.search("red", k=2) if hit.kind == "image"]
    assert (moment.start_seconds, moment.end_seconds) == (15, 30)
    assert moment.score == pytest.approx(still.score, abs=0.01)
