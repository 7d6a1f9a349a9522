"""Frames that are jumped to are the frames that a pass over all of them gives."""

import data
import numpy as np
import pytest
from media_files import uniform_slowly, write_video
from test_decode_video import FORMATS, Decoded
from test_keyframes import write_with_keys

from perception_search import Collection
from perception_search import video_reader as vr
from perception_search.frames import Sampling

ALONE = Sampling(1.0, 8, grid="none")


@pytest.fixture
def decoded(monkeypatch):
    """How many frames came out of the decoder, by video."""
    counted = []
    real = vr.VideoReader._note_size
    monkeypatch.setattr(vr.VideoReader, "_note_size", lambda *a: counted.append(1) or real(*a))
    return counted


def same(path, num_frames=8):
    alone = Decoded(path, Sampling(1.0, num_frames, grid="none"))
    every = Decoded(path, Sampling(1.0, num_frames))
    wanted = every.num_uniform > 0
    assert not alone.on_grid.any()
    counting = alone.num_uniform > 0  # all, but where all frames were decoded after all
    assert alone.num_uniform[counting].tolist() == every.num_uniform[wanted].tolist()
    assert np.array_equal(alone.pixels[counting], every.pixels[wanted])
    assert alone.summary.duration_seconds == pytest.approx(every.summary.duration_seconds, abs=0.01)
    assert (alone.summary.width, alone.summary.height) == (
        every.summary.width,
        every.summary.height,
    )
    return alone


@pytest.mark.parametrize("num_frames", [1, 2, 8, 33])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_frames(tmp_path, name, num_frames):
    file_name, options = FORMATS[name]
    path = write_video(tmp_path / file_name, 60, **options)
    alone = same(path, num_frames)
    assert alone.uniform == uniform_slowly(60, num_frames)


@pytest.mark.parametrize("keys", [[0], [0, 90, 91, 200], list(range(0, 300, 50))])
def test_far_fewer_frames_are_decoded(tmp_path, keys, decoded):
    path = write_with_keys(tmp_path / "a.mp4", keys, num_frames=300)
    alone = Decoded(path, Sampling(1.0, 4, grid="none"))
    assert alone.uniform == uniform_slowly(300, 4)
    if len(keys) > 4:
        assert len(decoded) < 250
    same(path, 4)


def test_without_timestamps_all_frames_are_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 60)

    def no_table(_reader):
        yield "progress"

    monkeypatch.setattr(vr.VideoReader, "timetable", no_table)
    same(path)


def test_where_a_frame_is_not_found_all_are_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 60)
    real = vr.VideoReader.timetable

    def shifted(reader):
        table = yield from real(reader)
        return table._replace(stamps=[stamp + 1 for stamp in table.stamps])

    monkeypatch.setattr(vr.VideoReader, "timetable", shifted)
    same(path)


@pytest.mark.slow
def test_real_clips_give_the_same_frames():
    checked = 0
    for path in sorted(data.folder("clips").iterdir())[::2]:
        if path.suffix != ".json":
            same(path)
            checked += 1
    assert checked == 21


def test_a_collection_must_have_a_grid(tmp_path):
    with pytest.raises(ValueError, match="on a grid"):
        Collection.create(tmp_path / "c.ps", model="starter", sampling=ALONE)
    assert not (tmp_path / "c.ps").exists()
