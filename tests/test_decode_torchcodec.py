import importlib
import sys

import data
import numpy as np
import pytest
from media_files import write_video

from perception_search import decode_video as pyav
from perception_search.errors import MediaError, MissingExtra
from perception_search.frames import Frames, FrameSpec, Sampling
from perception_search.media import identify

SPEC = FrameSpec(64, 96)
# Their first frames cannot be decoded, or their frames are stored in an order that their times
# do not tell: there torchcodec's index is not that of the frames.
ODD_CLIPS = {"143_12727.mp4", "084_vid1.mp4", "122_test.avi", "149_tree.avi"}


@pytest.fixture(scope="module")
def torchcodec():
    try:
        return importlib.import_module("perception_search.decode_torchcodec")
    except MissingExtra as error:
        pytest.skip(str(error))


def decoded(backend, path, sampling):
    chunks = []
    with path.open("rb", buffering=0) as file:
        name = identify(file.read(4096)).name
        for step in backend.decode_video(
            file, name, SPEC, sampling, max_pixels=50_000_000, num_threads=1
        ):
            if isinstance(step, Frames):
                chunks.append(step)
            elif not isinstance(step, str):
                summary = step
    parts = zip(*(vars(chunk).values() for chunk in chunks), strict=True)
    return [np.concatenate(part) for part in parts], summary


def assert_equal(torchcodec, path, sampling):
    ours, our_summary = decoded(pyav, path, sampling)
    theirs, their_summary = decoded(torchcodec, path, sampling)
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        if our.dtype == np.float64:
            assert np.allclose(our, their, rtol=0, atol=1e-9)
        else:
            assert np.array_equal(our, their)
    assert (our_summary.width, our_summary.height, our_summary.facts) == (
        their_summary.width,
        their_summary.height,
        their_summary.facts,
    )
    assert our_summary.duration_seconds == pytest.approx(their_summary.duration_seconds)


@pytest.mark.parametrize("frames_per_second", [1.0, 2.5])
@pytest.mark.parametrize(
    ("file_name", "options"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"codec": "mpeg4"}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.mp4", {"rotation": 90}),
        ("a.mp4", {"rotation": 180}),
        ("a.mkv", {"ticks": [37 * i + (i % 5) * 6 for i in range(60)], "b_frames": False}),
    ],
)
def test_both_backends_give_the_same_frames_and_times(
    tmp_path, torchcodec, file_name, options, frames_per_second
):
    path = write_video(tmp_path / file_name, 60, **options)
    assert_equal(torchcodec, path, Sampling(frames_per_second, 8))


def test_both_backends_give_the_same_on_real_videos(torchcodec):
    clips = [p for p in sorted(data.folder("clips").iterdir()) if p.suffix != ".json"]
    for clip in [clip for clip in clips if clip.name not in ODD_CLIPS][::5]:
        assert_equal(torchcodec, clip, Sampling())


def test_a_stretch_is_spread_as_for_perception_lm(tmp_path, torchcodec):
    path = write_video(tmp_path / "a.mp4", 60)
    stretch = {"start_seconds": 1.0, "end_seconds": 2.0}
    assert_equal(torchcodec, path, Sampling(uniform="perception-lm", **stretch))


def test_key_frames_alone_are_refused(tmp_path, torchcodec):
    path = write_video(tmp_path / "a.mp4", 5)
    with pytest.raises(MediaError, match="pyav takes key frames") as error:
        decoded(torchcodec, path, Sampling(grid="keyframes"))
    assert error.value.outcome == "unsupported"


def test_a_playlist_inside_a_video_is_not_shown_to_torchcodec(tmp_path, torchcodec):
    path = write_video(tmp_path / "a.mp4", 5)
    path.write_bytes(path.read_bytes() + b"\nc=IN IP4 127.0.0.1\n")
    with pytest.raises(MediaError, match="not trusted") as error:
        decoded(torchcodec, path, Sampling())
    assert error.value.outcome == "unsupported"


@pytest.mark.parametrize("reason", [ImportError("no module"), OSError("libavutil.so.60"), None])
def test_without_torchcodec_the_extra_is_named(monkeypatch, reason):
    class Broken:
        def find_spec(self, name, *_):
            if name.startswith("torchcodec"):
                raise reason or RuntimeError

    for name in list(sys.modules):
        if name.startswith(("torchcodec", "perception_search.decode_torchcodec")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=r"pip install 'perception-search\[video\]'"):
        importlib.import_module("perception_search.decode_torchcodec")
