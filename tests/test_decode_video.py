import io
import socket
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import grid_slowly, number_of, numbered, uniform_slowly, write_video
from PIL import Image

from perception_search import decode_video as dv
from perception_search import video_reader
from perception_search.errors import MediaError
from perception_search.frames import Frames, FrameSpec, Sampling, prepare_image
from perception_search.media import identify

SPEC = FrameSpec(64, 96)
FORMATS = {
    "mp4, H.264": ("a.mp4", {}),
    "mp4, MPEG-4": ("a.mp4", {"codec": "mpeg4"}),
    "mov": ("a.mov", {}),
    "mkv, H.264": ("a.mkv", {}),
    "mkv, HEVC": ("a.mkv", {"codec": "libx265"}),
    "webm, VP9": ("a.webm", {"codec": "libvpx-vp9"}),
    "avi": ("a.avi", {"codec": "mpeg4"}),
    "ts": ("a.ts", {"codec": "mpeg2video"}),
    "mpg": ("a.mpg", {"codec": "mpeg2video"}),
    "flv": ("a.flv", {"codec": "flv", "b_frames": False}),
    "wmv": ("a.wmv", {"codec": "wmv2", "b_frames": False}),
}


class Decoded:
    """All that decoding a video yields, put together."""

    def __init__(self, path, sampling=None, spec=SPEC, max_pixels=50_000_000):
        chunks = []
        self.num_forgotten = 0
        with path.open("rb", buffering=0) as file:
            name = identify(file.read(4096)).name
            for step in dv.decode_video(
                file, name, spec, sampling or Sampling(), max_pixels=max_pixels, num_threads=2
            ):
                if isinstance(step, Frames):
                    chunks.append(step)
                elif step == "forget_uniform":
                    self.num_forgotten += 1
                    for chunk in chunks:
                        chunk.num_uniform[:] = 0
                elif step != "progress":
                    self.summary = step
        self.pixels = np.concatenate([c.pixels for c in chunks])
        self.pts_seconds = np.concatenate([c.pts_seconds for c in chunks])
        self.on_grid = np.concatenate([c.on_grid for c in chunks])
        self.num_uniform = np.concatenate([c.num_uniform for c in chunks])

    @property
    def grid(self):
        """The numbers that the grid's frames show."""
        return [number_of(p) for p in self.pixels[self.on_grid]]

    @property
    def uniform(self):
        """The numbers that the whole video's frames show, each as often as it counts."""
        shown = zip(self.pixels, self.num_uniform, strict=True)
        return sorted(number_of(p) for p, count in shown for _ in range(count))


def all_frames(path):
    """Every frame with its time and the end of the last: PyAV's plain loop."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        base = stream.time_base
        stamps = [float((f.dts if f.pts is None else f.pts) * base) for f in frames]
        rate = float(stream.average_rate or 25)
        last = float(frames[-1].duration * base) if frames[-1].duration else 1 / rate
        pictures = [f.to_ndarray(format="rgb24") for f in frames]
    times = [stamp - stamps[0] for stamp in stamps]
    return pictures, times, times[-1] + last


def shown_by(picture):
    return number_of(picture.transpose(2, 0, 1))


@pytest.mark.parametrize("frames_per_second", [1.0, 3.0])
@pytest.mark.parametrize("name", FORMATS)
def test_the_frames_of_every_format_are_those_of_the_slow_way(tmp_path, name, frames_per_second):
    file_name, options = FORMATS[name]
    path = write_video(tmp_path / file_name, 60, **options)
    pictures, times, end = all_frames(path)
    video = Decoded(path, Sampling(frames_per_second, 8))
    grid = grid_slowly(times, end, frames_per_second)
    expected = [prepare_image(Image.fromarray(pictures[i]), SPEC) for i in grid]
    assert np.array_equal(video.pixels[video.on_grid], np.stack(expected))
    assert video.pts_seconds[video.on_grid].tolist() == [
        j / frames_per_second for j in range(len(grid))
    ]
    uniform = uniform_slowly(len(pictures), 8)
    assert video.uniform == [shown_by(pictures[i]) for i in uniform]
    assert (video.summary.width, video.summary.height) == (96, 64)
    assert video.summary.duration_seconds == pytest.approx(end)
    if not video.num_forgotten:
        assert np.all(np.diff(video.pts_seconds) >= 0)


def test_a_video_of_sixty_frames_shows_what_it_was_made_of(tmp_path):
    video = Decoded(write_video(tmp_path / "a.mp4", 60))
    assert video.grid == [0, 25, 50]
    assert video.uniform == [0, 8, 16, 25, 33, 42, 50, 59]
    assert video.num_forgotten == 0
    assert video.summary.duration_seconds == pytest.approx(2.4)


@pytest.mark.parametrize("file_name", ["a.mp4", "a.mkv"])
def test_frames_at_odd_times_are_shown_until_the_next(tmp_path, file_name):
    ticks = [0, 100, 250, 990, 1010, 2000, 5500, 5600]
    video = Decoded(write_video(tmp_path / file_name, len(ticks), ticks=ticks, b_frames=False))
    assert video.grid == [0, 3, 5, 5, 5, 5]
    assert video.uniform == list(range(8))


def test_a_start_that_is_not_zero_does_not_matter(tmp_path):
    ticks = [5000 + 40 * i for i in range(60)]
    video = Decoded(write_video(tmp_path / "a.mkv", 60, ticks=ticks, b_frames=False))
    assert video.grid == [0, 25, 50]


@pytest.mark.parametrize(("num_frames", "grid"), [(1, [0]), (2, [0]), (26, [0, 25])])
def test_the_shortest_videos_have_a_grid_point_and_all_uniform_frames(tmp_path, num_frames, grid):
    video = Decoded(write_video(tmp_path / "a.mp4", num_frames))
    assert video.grid == grid
    assert video.uniform == uniform_slowly(num_frames, 8)


def test_one_uniform_frame_is_the_middle_one(tmp_path):
    video = Decoded(write_video(tmp_path / "a.mp4", 31), Sampling(1.0, 1))
    assert video.uniform == [15]


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("file_name", ["a.mp4", "a.mov"])
def test_a_video_is_turned_as_its_container_says(tmp_path, rotation, file_name):
    path = write_video(tmp_path / file_name, 30, rotation=rotation)
    video = Decoded(path, spec=FrameSpec(96, 96))
    quarter_turns = rotation // 90 % 4  # counter-clockwise
    pictures, _, _ = all_frames(path)
    upright = np.ascontiguousarray(np.rot90(pictures[0], quarter_turns))
    expected = prepare_image(Image.fromarray(upright), FrameSpec(96, 96))
    assert np.array_equal(video.pixels[0], expected)
    size = (64, 96) if quarter_turns % 2 else (96, 64)
    assert (video.summary.width, video.summary.height) == size


def test_of_several_streams_the_cover_is_not_the_video(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 320, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = output.add_stream("aac", rate=48000, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.zeros((320, 320, 3), np.uint8), format="rgb24")
        output.mux(cover.encode(picture))
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            output.mux(stream.encode(frame))
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            noise.sample_rate = 48000
            noise.pts = index * 1024
            output.mux(sound.encode(noise))
        for each in (cover, stream, sound):
            output.mux(each.encode())
    video = Decoded(path)
    assert (video.summary.width, video.summary.height) == (96, 64)
    assert video.grid == [0, 25]


def test_of_two_videos_in_a_file_one_is_read_throughout(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        streams = []
        for width, height in ((96, 64), (192, 128)):
            stream = output.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for index in range(50):
            for number, stream in enumerate(streams):
                pixels = numbered(index + 1000 * number, (stream.width, stream.height))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode())
    for grid in ("by-time", "keyframes"):
        video = Decoded(path, Sampling(grid=grid))
        first = 0 if video.summary.width == 96 else 1000
        assert video.grid == [first, first + (25 if grid == "by-time" else 0)]
        assert video.num_forgotten == 0


def test_a_recording_that_does_not_say_how_long_it_is(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", options={"live": "1"}) as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(60):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index), format="rgb24")))
        output.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.streams.video[0].duration is None
    for grid in ("by-time", "keyframes"):
        video = Decoded(path, Sampling(grid=grid))
        assert video.summary.duration_seconds == pytest.approx(2.4, abs=0.05)
        assert len(video.grid) == 3


def test_times_out_of_order_stand_still_and_never_run_back(tmp_path):
    path = tmp_path / "a.mkv"
    order = [1, 0, 3, 2, 4, 6, 5, 7, 9, 8]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 1
        for index, at in enumerate(order):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = 400 * index, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.dts, packet.pts = 400 * index - 1000, 400 * at
                output.mux(packet)
    times = np.maximum.accumulate([0.4 * (at - order[0]) for at in order]).tolist()
    for grid in ("by-time", "keyframes"):
        video = Decoded(path, Sampling(grid=grid))
        end_seconds = video.summary.duration_seconds
        assert end_seconds == pytest.approx(times[-1], abs=0.5)
        assert video.grid == grid_slowly(times, end_seconds, 1.0)
        assert video.uniform == uniform_slowly(10, 8)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=48000, layout="mono")
        for index in range(10):
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            noise.sample_rate = 48000
            noise.pts = index * 1024
            output.mux(sound.encode(noise))
        output.mux(sound.encode())
    with pytest.raises(MediaError, match="no moving pictures") as error:
        Decoded(path)
    assert error.value.outcome == "skipped"


def test_a_video_cut_in_the_middle_gives_what_is_left(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", 100).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    video = Decoded(path)
    pictures, _, end = all_frames(path)
    assert 20 < len(pictures) < 100
    assert video.uniform == [shown_by(pictures[i]) for i in uniform_slowly(len(pictures), 8)]
    assert video.summary.duration_seconds == pytest.approx(end)


def test_damage_in_the_middle_costs_only_its_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", 100, codec="mpeg4")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    video = Decoded(path)
    assert video.grid[0] == 0
    assert len(video.grid) >= 3
    assert video.num_uniform.sum() == 8


def test_a_container_that_counts_wrong_is_counted_again(tmp_path):
    # The first frames lean on a key frame that is not there: no decoder shows them.
    source = write_video(tmp_path / "a.mp4", 100)
    path = tmp_path / "b.mkv"
    with av.open(str(source)) as whole, av.open(str(path), "w") as output:
        stream = whole.streams.video[0]
        copy = output.add_stream_from_template(stream)
        num_key_frames = 0
        for packet in whole.demux(stream):
            num_key_frames += packet.is_keyframe
            if packet.dts is None or (num_key_frames == 1 and packet.is_keyframe):
                continue
            packet.stream = copy
            output.mux(packet)
    pictures, _, _ = all_frames(path) if num_key_frames > 1 else ([], [], 0)
    if not pictures:
        with pytest.raises(MediaError, match="no frame"):
            Decoded(path)
        return
    video = Decoded(path)
    assert video.num_forgotten == 1
    expected = [shown_by(pictures[i]) for i in uniform_slowly(len(pictures), 8)]
    assert video.uniform == expected


@pytest.mark.parametrize("file_name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_video_without_frames_is_unreadable(tmp_path, file_name):
    path = tmp_path / file_name
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        output.start_encoding()
    with pytest.raises((MediaError, av.error.FFmpegError)):
        Decoded(path)


def test_a_frame_larger_than_allowed_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", 5)
    Decoded(path, max_pixels=96 * 64)
    with pytest.raises(MediaError, match="96 x 64, more than 6,143 pixels") as error:
        Decoded(path, max_pixels=96 * 64 - 1)
    assert error.value.outcome == "too_large"


def test_a_timestamp_of_years_makes_no_millions_of_frames(tmp_path):
    ticks = [0, 40, 80, 10**9 * 1000, 10**9 * 1000 + 40]
    path = write_video(tmp_path / "a.mkv", len(ticks), ticks=ticks, b_frames=False)
    video = Decoded(path)
    assert len(video.pixels) < 20
    assert video.summary.duration_seconds < 1


def test_facts_come_with_the_video(tmp_path):
    metadata = {"creation_time": "2022-05-01T10:00:00.000000Z", "location": "+48.8582+002.2945/"}
    video = Decoded(write_video(tmp_path / "a.mov", 5, metadata=metadata))
    assert video.summary.facts.taken_at == "2022-05-01T10:00:00+00:00"


def test_a_long_video_is_sent_in_small_chunks(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100)
    with path.open("rb", buffering=0) as file:
        steps = dv.decode_video(
            file, "mov", SPEC, Sampling(25.0, 8), max_pixels=10**6, num_threads=1
        )
        lengths = [len(step.pixels) for step in steps if isinstance(step, Frames)]
    assert sum(lengths) == 100
    assert max(lengths) == 16


def box(name, content):
    return struct.pack(">I", 8 + len(content)) + name + content


def with_outside_data(data, url):
    """An MP4 whose data are said to be elsewhere: in the data reference of its track."""

    def rebuilt(data):
        out = b""
        at = 0
        while at + 8 <= len(data):
            size, name = struct.unpack(">I4s", data[at : at + 8])
            content = data[at + 8 : at + size]
            if name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
                content = rebuilt(content)
            if name == b"dref":
                entry = box(b"url ", b"\0\0\0\0" + url.encode() + b"\0")
                content = b"\0\0\0\0\0\0\0\1" + entry
            out += box(name, content)
            at += size
        return out

    return rebuilt(data)


def test_a_video_opens_no_other_file(tmp_path, monkeypatch):
    canary = write_video(tmp_path / "canary.mp4", 50, first=1000)
    tried = []
    monkeypatch.setattr(video_reader, "_open_nothing", lambda url, *_: tried.append(url))
    visits = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def listen():
            try:
                while True:
                    server.accept()[0].close()
                    visits.append(1)
            except OSError:
                return

        port = server.getsockname()[1]
        urls = [f"http://127.0.0.1:{port}/a.mp4", "canary.mp4", f"file://{canary}", str(canary)]
        thread = threading.Thread(target=listen)
        thread.start()
        for number, url in enumerate(urls):
            path = tmp_path / f"{number}.mp4"
            data = write_video(tmp_path / "own.mp4", 50).read_bytes()
            path.write_bytes(with_outside_data(data, url))
            try:
                video = Decoded(path)
            except (MediaError, av.error.FFmpegError):
                continue
            assert max(video.grid) < 1000
        thread.join()
    assert (visits, tried) == ([], [])


@pytest.mark.parametrize("content", [b"#EXTM3U\nc.mp4\n", b"ffconcat version 1.0\nfile c.mp4\n"])
@pytest.mark.parametrize("name", ["mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf"])
def test_no_demuxer_but_the_named_one_reads_a_file(tmp_path, content, name):
    write_video(tmp_path / "c.mp4", 5)
    path = tmp_path / "list.mp4"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as file, pytest.raises((MediaError, av.error.FFmpegError)):
        list(dv.decode_video(file, name, SPEC, Sampling(), max_pixels=10**6, num_threads=1))


@pytest.mark.parametrize(
    ("at_seconds", "number"), [(0.0, 0), (0.99, 24), (1.0, 25), (2.0, 50), (99.0, 59)]
)
@pytest.mark.parametrize("file_name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_thumbnail_shows_the_frame_of_its_moment(tmp_path, file_name, at_seconds, number):
    codec = "mpeg2video" if file_name == "a.ts" else "libx264"
    path = write_video(tmp_path / file_name, 60, codec=codec)
    with path.open("rb", buffering=0) as file:
        name = identify(file.read(4096)).name
        jpeg = dv.video_thumbnail(file, name, at_seconds, 96, max_pixels=10**6)
    with Image.open(io.BytesIO(jpeg)) as small:
        assert small.size == (96, 64)
        assert number_of(np.asarray(small).transpose(2, 0, 1)) == number


def test_a_thumbnail_of_a_turned_video_is_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, rotation=90)
    with path.open("rb", buffering=0) as file:
        jpeg = dv.video_thumbnail(file, "mov", 0.5, 48, max_pixels=10**6)
    with Image.open(io.BytesIO(jpeg)) as small:
        assert small.size == (32, 48)
