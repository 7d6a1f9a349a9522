from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import grid_slowly, number_of, numbered, uniform_slowly, write_video
from test_decode_video import FORMATS, Decoded

from perception_search.frames import Sampling

KEYS = Sampling(1.0, 8, grid="keyframes")


def write_with_keys(path, keys, num_frames=100, ticks=None, options=None):
    """A video of `numbered` frames, of which those in `keys` are key frames."""
    with av.open(str(path), "w", options=options or {}) as output:
        settings = {"x264-params": "keyint=9999:scenecut=0"}
        stream = output.add_stream("libx264", rate=25, options=settings)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.bit_rate = 1_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts = 40 * index if ticks is None else ticks[index]
            frame.time_base = Fraction(1, 1000)
            frame.pict_type = (
                av.video.frame.PictureType.I if index in keys else av.video.frame.PictureType.NONE
            )
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def key_numbers(path):
    """Which of the frames in the order of showing are key frames, and when they are shown."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = [frame.time - frames[0].time for frame in frames]
        return [
            (number_of(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)), time)
            for frame, time in zip(frames, times, strict=True)
            if frame.key_frame
        ]


@pytest.mark.parametrize("file_name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("keys", [[0], [0, 30, 31, 77], [0, 25, 50, 75]])
def test_a_grid_point_is_the_last_key_frame_shown_by_then(tmp_path, file_name, keys):
    path = write_with_keys(tmp_path / file_name, keys)
    shown = key_numbers(path)
    assert set(keys) <= {number for number, _ in shown}
    numbers, times = zip(*shown, strict=True)
    video = Decoded(path, KEYS)
    assert video.grid == [numbers[i] for i in grid_slowly(times, 4.0, 1.0)]
    assert video.pts_seconds[video.on_grid].tolist() == [0, 1, 2, 3]
    assert video.uniform == [numbers[i] for i in uniform_slowly(len(numbers), 8)]
    assert video.summary.cuts is None
    assert video.num_forgotten == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_video_is_as_long_by_key_frames_as_by_time(tmp_path, name):
    file_name, options = FORMATS[name]
    path = write_video(tmp_path / file_name, 60, **options)
    by_time, by_keys = Decoded(path), Decoded(path, KEYS)
    assert by_keys.summary.duration_seconds == pytest.approx(
        by_time.summary.duration_seconds, abs=0.05
    )
    assert len(by_keys.grid) == len(by_time.grid)
    assert set(by_keys.grid) <= {number for number, _ in key_numbers(path)}
    size = (by_keys.summary.width, by_keys.summary.height)
    assert size == (by_time.summary.width, by_time.summary.height)


def test_key_frames_at_odd_times(tmp_path):
    ticks = np.cumsum([0] + [20 + 37 * (n % 7) for n in range(99)]).tolist()
    path = write_with_keys(tmp_path / "a.mkv", [0, 11, 40, 90], ticks=ticks)
    numbers, times = zip(*key_numbers(path), strict=True)
    by_time, video = Decoded(path), Decoded(path, KEYS)
    end_seconds = by_time.summary.duration_seconds
    assert video.grid == [numbers[i] for i in grid_slowly(times, end_seconds, 1.0)]
    assert video.summary.duration_seconds == pytest.approx(end_seconds, abs=0.05)


def test_of_a_video_that_has_only_key_frames_nothing_is_lost(tmp_path):
    path = write_with_keys(tmp_path / "a.mp4", range(100))
    by_time, by_keys = Decoded(path), Decoded(path, KEYS)
    assert by_keys.grid == by_time.grid
    assert by_keys.uniform == by_time.uniform
    assert np.array_equal(by_keys.pixels, by_time.pixels)


def test_a_fragmented_video_without_an_index_is_counted(tmp_path):
    path = write_with_keys(
        tmp_path / "a.mp4", [0, 25, 50], options={"movflags": "frag_keyframe+empty_moov"}
    )
    assert Decoded(path, KEYS).grid == [0, 25, 50, 50]
    assert Decoded(path).uniform == uniform_slowly(100, 8)


def test_a_video_without_a_key_frame_is_taken_by_time(tmp_path):
    # Its first frame renews itself column by column, and is cut away.
    source = tmp_path / "whole.mkv"
    with av.open(str(source), "w") as output:
        stream = output.add_stream(
            "libx264", rate=25, options={"x264-params": "intra-refresh=1:keyint=20:bframes=0"}
        )
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(100):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index), format="rgb24")))
        output.mux(stream.encode())
    path = tmp_path / "a.mkv"
    with av.open(str(source)) as whole, av.open(str(path), "w") as output:
        stream = whole.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(whole.demux(stream)):
            if packet.dts is None or number == 0:
                continue
            packet.is_keyframe = False
            packet.stream = copy
            output.mux(packet)
    by_time, by_keys = Decoded(path), Decoded(path, KEYS)
    assert by_keys.summary.duration_seconds == pytest.approx(by_time.summary.duration_seconds)
    assert len(by_keys.grid) == len(by_time.grid)


@pytest.mark.parametrize("file_name", ["a.mp4", "a.mkv"])
def test_a_video_cut_in_the_middle_gives_its_key_frames(tmp_path, file_name):
    options = {"movflags": "faststart"} if file_name == "a.mp4" else {}
    whole = write_with_keys(tmp_path / file_name, [0, 25, 50, 75], options=options).read_bytes()
    path = tmp_path / f"cut-{file_name}"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    video = Decoded(path, KEYS)
    assert video.grid[0] == 0
    assert set(video.grid) <= {0, 25, 50, 75}
    assert video.num_uniform.sum() == 8
