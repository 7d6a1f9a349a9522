import errno
import itertools
import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import data
import numpy as np
import pytest
from media_files import gradient, number_of, write_video

from perception_search.errors import MediaError
from perception_search.export import stretch
from perception_search.export.cutting import Cutter, cut
from perception_search.export.report import WRITTEN
from perception_search.export.worker import _Out
from perception_search.hits import Hit

RATE = 25
FORMATS = {
    "mp4, H.264": ("a.mp4", {}, "mp4"),
    "mp4, MPEG-4": ("a.mp4", {"codec": "mpeg4"}, "mp4"),
    "mov": ("a.mov", {}, "mp4"),
    "mkv, H.264": ("a.mkv", {}, "mp4"),
    "mkv, HEVC": ("a.mkv", {"codec": "libx265"}, "mp4"),
    "webm, VP9": ("a.webm", {"codec": "libvpx-vp9"}, "mp4"),
    "webm, VP8": ("a.webm", {"codec": "libvpx"}, "mkv"),
    "avi, MPEG-4": ("a.avi", {"codec": "mpeg4"}, "mp4"),
    "avi, H.264 in disorder": ("a.avi", {}, "avi"),
    "ts, H.264": ("a.ts", {}, "mp4"),
    "ts, MPEG-2": ("a.ts", {"codec": "mpeg2video"}, "mkv"),
    "mpg": ("a.mpg", {"codec": "mpeg2video"}, "mkv"),
    "flv": ("a.flv", {"codec": "flv", "b_frames": False}, "flv"),
    "wmv": ("a.wmv", {"codec": "wmv2", "b_frames": False}, "wmv"),
}


def hit(path, start=None, end=None, kind="video", score=0.3):
    return Hit(1, Path(path), kind, score, start, end)


class Read:
    """What another program sees in a file: PyAV's plain loop."""

    def __init__(self, path, max_frames=None):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            self.codec = stream.codec_context.name
            self.sounds = [s.codec_context.name for s in container.streams.audio]
            self.seconds = container.duration / av.time_base
            frames = list(itertools.islice(container.decode(stream), max_frames))
            base = stream.time_base
        self.size = frames[0].width, frames[0].height
        self.rotation = frames[0].rotation % 360
        self.pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
        self.times = [float(f.pts * base) for f in frames]

    @property
    def numbers(self):
        return [number_of(picture.transpose(2, 0, 1)) for picture in self.pictures]


def key_times(path):
    """When the key frames of a file are shown, from its first frame on."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        first = min(p.pts for p in packets if p.pts is not None)
        return [float((p.pts - first) * stream.time_base) for p in packets if p.is_keyframe]


def sound_of(path, rate=48000):
    """All its first sound as mono samples from its time 0 on."""
    samples = np.zeros(rate * 60, np.float32)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", "mono", rate)
        for frame in container.decode(stream):
            at = float(frame.pts * stream.time_base)
            for piece in resampler.resample(frame):
                values = piece.to_ndarray()[0]
                first = round(at * rate)
                if first < 0:
                    values, first = values[-first:], 0
                samples[first : first + len(values)] = values
                at += len(values) / rate
    return samples


def onsets(loud, seconds_each):
    """The times at which something begins."""
    loud = np.asarray(loud, bool)
    begins = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    return [float(b) * seconds_each for b in begins]


def write_flashes(path, num_seconds=8, *, sound_codec="aac", tracks=1, at=0.32):
    """White for 0.2 s and a tone as long, once a second, `at` after each full second."""
    rate = 48000
    time = np.arange(num_seconds * rate) / rate
    is_on = (time % 1.0 >= at) & (time % 1.0 < at + 0.2)
    tone = (np.sin(2 * np.pi * 1000 * time) * is_on * 0.8).astype(np.float32)
    with av.open(str(path), "w") as output:
        pictures = output.add_stream("libx264", rate=RATE, options={"g": "50", "sc_threshold": "0"})
        pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
        sounds = [output.add_stream(sound_codec, rate=rate, layout="mono") for _ in range(tracks)]
        packets = []
        for index in range(num_seconds * RATE):
            white = at <= round(index / RATE % 1.0, 6) < at + 0.2
            frame = av.VideoFrame.from_ndarray(
                np.full((64, 96, 3), 255 * white, np.uint8), format="rgb24"
            )
            frame.pts = index
            packets += pictures.encode(frame)
        packets += pictures.encode()
        for sound in sounds:
            fifo = av.AudioFifo()
            whole = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
            resampler = av.AudioResampler(sound.codec_context.format.name, "mono", rate)
            for piece in resampler.resample(whole):
                fifo.write(piece)
            size = sound.codec_context.frame_size or 1024
            for piece in fifo.read_many(size, partial=True):
                packets += sound.encode(piece)
            packets += sound.encode()
        packets = [p for p in packets if p.dts is not None]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            output.mux(packet)
    return Path(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_copy_begins_with_the_key_frame_before_and_says_so(tmp_path, name):
    file, options, extension = FORMATS[name]
    source = write_video(tmp_path / file, 150, **options)
    keys = key_times(source)
    report = cut([hit(source, 3.0, 4.0)], tmp_path / "out")
    (done,) = report.moments
    assert (done.outcome, done.reason) == (WRITTEN, "")
    assert done.path == tmp_path / "out" / f"001_a_00-00-03.0.{extension}"
    expected = max(key for key in keys if key <= 3.0 + 1e-3)
    assert done.start_seconds == pytest.approx(expected, abs=0.0015)
    copied = Read(done.path)
    first = round(expected * RATE)
    assert copied.numbers[0] == first
    # AVI does not say how frames in disorder are shown, and a decoder loses one at its end
    wanted = set(range(first, 99 if extension == "avi" else 100))
    assert wanted <= set(copied.numbers)
    if extension != "avi":
        assert set(copied.numbers) == set(range(first, copied.numbers[-1] + 1)), "none is left out"
    # the last one wanted may be shown from a later one: x265 puts up to 4 before it, others 3
    assert copied.numbers[-1] <= (103 if "HEVC" in name else 102)
    assert copied.times[0] == pytest.approx(0, abs=0.05)
    assert done.end_seconds == pytest.approx((copied.numbers[-1] + 1) / RATE, abs=0.06)
    assert copied.seconds == pytest.approx(done.end_seconds - done.start_seconds, abs=0.06)
    before, copied_codec = Read(source), copied.codec
    assert copied_codec == before.codec
    assert np.array_equal(copied.pictures[0], before.pictures[first])  # the very same bytes


@pytest.mark.parametrize("name", FORMATS)
def test_an_exact_cut_has_these_frames_and_no_others(tmp_path, name):
    file, options, _ = FORMATS[name]
    source = write_video(tmp_path / file, 150, **options)
    (done,) = cut([hit(source, 3.0, 4.0)], tmp_path / "out", exact=True).moments
    assert done.path == tmp_path / "out" / "001_a_00-00-03.0.mp4"
    assert done.start_seconds == pytest.approx(3.0, abs=1e-3)
    assert done.end_seconds == pytest.approx(4.0, abs=1e-3)
    encoded = Read(done.path)
    assert encoded.codec == "h264"
    assert encoded.numbers == list(range(75, 100))
    assert encoded.times == pytest.approx([n / RATE for n in range(25)], abs=2e-3)
    assert encoded.seconds == pytest.approx(1.0, abs=2e-3)
    shown = Read(source).pictures[75].astype(int)
    assert np.abs(encoded.pictures[0].astype(int) - shown).mean() < 4


@pytest.mark.parametrize("exact", [False, True])
def test_a_moment_at_either_end_and_one_that_is_too_long(tmp_path, exact):
    source = write_video(tmp_path / "a.mp4", 50)
    hits = [hit(source, 0.0, 0.4), hit(source, 1.8, 60.0), hit(source, 0.0, 2.0)]
    first, last, whole = cut(hits, tmp_path / "out", exact=exact).moments
    assert first.start_seconds == 0
    assert Read(first.path).numbers[:10] == list(range(10))
    assert last.end_seconds == pytest.approx(2.0)
    assert Read(last.path).numbers[-5:] == [45, 46, 47, 48, 49]
    assert Read(whole.path).numbers == list(range(50))


def test_times_count_from_the_first_frame_that_is_shown(tmp_path):
    # half a second before the first frame: as many containers have
    source = write_video(tmp_path / "a.mkv", 100, ticks=[500 + 40 * n for n in range(100)])
    (done,) = cut([hit(source, 1.0, 2.0)], tmp_path / "out", exact=True).moments
    assert Read(done.path).numbers == list(range(25, 50))
    assert (done.start_seconds, done.end_seconds) == pytest.approx((1.0, 2.0))


def test_uneven_times_stay_as_they_are_and_a_still_picture_stands(tmp_path):
    ticks = [0, 40, 1000, 1100, 1105, 1700, 3000, 3040]
    source = write_video(tmp_path / "a.mkv", 8, ticks=ticks, b_frames=False)
    (done,) = cut([hit(source, 0.5, 2.5)], tmp_path / "out", exact=True).moments
    encoded = Read(done.path)
    assert encoded.numbers == [1, 2, 3, 4, 5]  # the first was on screen since 0.04 s
    assert encoded.times == pytest.approx([0, 0.5, 0.6, 0.605, 1.2], abs=2e-3)
    assert encoded.seconds == pytest.approx(2.0, abs=2e-3)


def test_what_was_trimmed_off_is_not_shown_again(tmp_path):
    whole, source = write_video(tmp_path / "whole.mp4", 100), tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as given, av.open(str(source), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.pts -= round(1 / packet.time_base)  # QuickTime hides what is before 0
                packet.dts -= round(1 / packet.time_base)
                packet.stream = stream
                output.mux(packet)
    assert Read(source).numbers == list(range(25, 100))
    for exact in (False, True):
        (done,) = cut([hit(source, 0.2, 1.0)], tmp_path / str(exact), exact=exact).moments
        assert done.start_seconds == pytest.approx(0.2 if exact else 0.0, abs=1e-3)
        numbers = Read(done.path).numbers
        assert numbers[0] == (30 if exact else 25)
        assert numbers[: numbers.index(49) + 1] == list(range(numbers[0], 50))


@pytest.mark.parametrize("sound_codec", ["aac", "libmp3lame", "libopus", "ac3"])
@pytest.mark.parametrize("exact", [False, True])
def test_sound_and_pictures_stay_together(tmp_path, exact, sound_codec):
    source = write_flashes(tmp_path / "a.mp4", sound_codec=sound_codec)
    (done,) = cut([hit(source, 2.6, 5.0)], tmp_path / "out", exact=exact).moments
    assert done.outcome == WRITTEN, done.reason
    read = Read(done.path)
    white = [picture.mean() > 127 for picture in read.pictures]
    flashes = [read.times[round(at * RATE)] for at in onsets(white, 1 / RATE)]
    loud = np.abs(sound_of(done.path)) > 0.1
    steady = np.convolve(loud, np.ones(96), "same") > 0  # a tone crosses zero
    tones = onsets(steady, 1 / 48000)
    assert len(flashes) == len(tones) == (2 if exact else 3)
    assert tones == pytest.approx(flashes, abs=0.03)
    assert flashes[0] == pytest.approx(0.72 if exact else 0.32, abs=1e-3)
    assert read.seconds == pytest.approx(done.end_seconds - done.start_seconds, abs=0.06)


@pytest.mark.parametrize("exact", [False, True])
def test_every_sound_is_kept(tmp_path, exact):
    source = write_flashes(tmp_path / "a.mkv", tracks=2)
    (done,) = cut([hit(source, 1.0, 2.0)], tmp_path / "out", exact=exact).moments
    assert Read(done.path).sounds == ["aac", "aac"]


def test_plain_sound_of_quicktime_stays_in_quicktime(tmp_path):
    source = write_flashes(tmp_path / "a.mov", sound_codec="pcm_s16le")
    copied, encoded = (
        cut([hit(source, 1.0, 2.0)], tmp_path / str(exact), exact=exact).moments[0]
        for exact in (False, True)
    )
    assert copied.path.suffix == ".mov"
    assert Read(copied.path).sounds == ["pcm_s16le"]
    assert Read(encoded.path).sounds == ["aac"]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_video_looks_as_it_did(tmp_path, rotation):
    source = write_video(tmp_path / "a.mp4", 30, rotation=rotation)
    (copied,) = cut([hit(source, 0.0, 1.0)], tmp_path / "copy").moments
    (encoded,) = cut([hit(source, 0.0, 1.0)], tmp_path / "exact", exact=True).moments
    assert Read(copied.path).rotation == rotation
    upright, before = Read(encoded.path), Read(source)
    assert upright.rotation == 0
    expected = np.rot90(before.pictures[7], rotation // 90).astype(int)
    assert upright.pictures[7].shape == expected.shape
    assert np.abs(upright.pictures[7].astype(int) - expected).mean() < 4


def test_a_size_that_is_odd_gets_one_pixel_more(tmp_path):
    source = tmp_path / "odd.mkv"
    picture = np.asarray(gradient(97, 63))
    with av.open(str(source), "w") as output:
        stream = output.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 97, 63, "bgr0"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    (done,) = cut([hit(source, 0.2, 0.6)], tmp_path / "out", exact=True).moments
    encoded = Read(done.path)
    assert encoded.size == (98, 64)
    assert np.abs(encoded.pictures[0][:63, :97].astype(int) - picture).mean() < 4


def test_one_bad_video_does_not_end_the_others(tmp_path):
    good = write_video(tmp_path / "good.mp4", 50)
    text = tmp_path / "text.mp4"
    text.write_text("no video at all")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:10,\n{good}\n")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(good.read_bytes()[:2000])
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    sources = [tmp_path / "gone.mp4", text, playlist, torn, pipe, good]
    report = cut([hit(source, 0.0, 1.0) for source in sources], tmp_path / "out")
    assert [moment.source for moment in report.moments] == sources
    outcomes = [moment.outcome for moment in report.moments]
    assert outcomes == ["unreadable", "unreadable", "playlist", "unreadable", "not_a_file", WRITTEN]
    assert all(moment.path is None and moment.reason for moment in report.moments[:-1])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["006_good_00-00-00.0.mp4"]
    assert "5 could not be exported" in report.summary()


def test_pictures_are_counted_and_left_out(tmp_path):
    source = write_video(tmp_path / "a.mp4", 50)
    hits = [hit(tmp_path / "a.png", kind="image"), hit(source, 0.0, 1.0), hit(source)]
    report = cut(hits, tmp_path / "out")
    assert report.num_left_out == 2
    assert report.summary() == ("1 moment in 1 file, 2 hits left out: are no moments of a video.")
    assert report.moments[0].path.name.startswith("002_")  # its rank among all hits
    nothing = cut(hits[:1], tmp_path / "none")
    assert not nothing.moments
    assert not (tmp_path / "none").exists()


def test_nothing_that_is_there_is_replaced_unasked(tmp_path):
    source = write_video(tmp_path / "a.mp4", 50)
    out = tmp_path / "out"
    (first,) = cut([hit(source, 0.0, 1.0)], out).moments
    first.path.write_bytes(b"mine")
    for exact in (False, True):
        (second,) = cut([hit(source, 0.0, 1.0)], out, exact=exact).moments
        assert (second.outcome, second.path) == ("exists", None)
        assert "overwrite" in second.reason
        assert first.path.read_bytes() == b"mine"
    (third,) = cut([hit(source, 0.0, 1.0)], out, overwrite=True).moments
    assert third.path == first.path
    assert Read(third.path).numbers[0] == 0
    assert [p.name for p in out.iterdir()] == [first.path.name]


def test_odd_names_survive_and_make_plain_ones(tmp_path):
    folder = os.fsencode(tmp_path)
    names = [
        b"we\xffird.mp4",
        b"two\nlines \x1b[31m.mp4",
        b"\"quotes' & <tags>:*?.mp4",
        b"x" * 251 + b".mp4",
        "é" * 120 + ".mp4",
        b"...mp4",
        b"-rf.mp4",
    ]
    good = write_video(tmp_path / "good.mp4", 25)
    sources = []
    for name in names:
        path = Path(
            os.fsdecode(folder + b"/" + (name if isinstance(name, bytes) else name.encode()))
        )
        shutil.copy(good, path)
        sources.append(path)
    report = cut([hit(source, 0.0, 1.0) for source in sources], tmp_path / "out")
    assert [m.outcome for m in report.moments] == [WRITTEN] * len(sources)
    for rank, (moment, source) in enumerate(zip(report.moments, sources, strict=True), start=1):
        name = moment.path.name
        assert name.startswith(f"{rank:03d}_")
        assert name.endswith("_00-00-00.0.mp4")
        assert not set(name) & set("\n\x1b\"'<>:*?/\\ ")
        assert len(name.encode()) <= 160
        said = json.loads(json.dumps(moment.as_dict()))
        assert Path(said["source"]) == source  # exactly, byte for byte
    assert sorted(m.path.name for m in report.moments) == [m.path.name for m in report.moments]


def test_names_sort_as_the_ranks_do(tmp_path):
    source = write_video(tmp_path / "a.mp4", 25)
    hits = [hit(tmp_path / "a.png", kind="image")] * 998 + [hit(source, 0.04, 1)] * 2
    paths = [moment.path for moment in cut(hits, tmp_path / "out").moments]
    assert [path.name for path in paths] == ["0999_a_00-00-00.0.mp4", "1000_a_00-00-00.0.mp4"]


@pytest.mark.parametrize("exact", [False, True])
def test_a_moment_after_the_end_is_a_failure(tmp_path, exact):
    source = write_video(tmp_path / "a.mp4", 25)  # shorter than when it was indexed
    (done,) = cut([hit(source, 3672.44, 3680)], tmp_path / "out", exact=exact).moments
    assert (done.outcome, done.path) == ("unreadable", None)
    assert done.reason == "it shows nothing from 3672.4 s on"


def test_a_video_that_takes_too_long_is_one_failure(tmp_path):
    source = write_video(tmp_path / "a.mp4", 300, size=(960, 540))
    (done,) = cut(
        [hit(source, 0.0, 12.0)], tmp_path / "out", exact=True, time_limit_seconds=0.01
    ).moments
    assert (done.outcome, done.path) == ("timed_out", None)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_frame_that_is_too_large_is_refused(tmp_path):
    source = write_video(tmp_path / "a.mp4", 25, size=(960, 540))
    (done,) = cut([hit(source, 0.0, 1.0)], tmp_path / "out", max_pixels=100_000).moments
    assert done.outcome == "too_large"


def test_a_disk_that_is_full_is_told_apart_from_a_bad_video(tmp_path):
    class Full:
        def __init__(self, file):
            self.file = file
            self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    source = write_video(tmp_path / "a.mp4", 25)
    for exact in (False, True):
        with source.open("rb") as file, (tmp_path / "out").open("w+b") as target:
            out = _Out(Full(target))
            with pytest.raises((OSError, MediaError)):
                stretch.cut(
                    file, "mov", out, 0.0, 1.0, exact=exact, max_pixels=10**7, num_threads=1
                )
        assert out.error.errno == errno.ENOSPC


def test_the_worker_that_dies_is_replaced(tmp_path):
    source = write_video(tmp_path / "a.mp4", 25)
    with Cutter() as cutter:
        first = cutter.clocks(source)
        cutter._process._process.kill()
        cutter._process._process.wait()
        assert cutter.clocks(source) == first
    assert first.rate == RATE
    assert first.duration_seconds == pytest.approx(1.0)


def test_backward_moments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must end after it begins"):
        cut([hit(tmp_path / "a.mp4", 2.0, 1.0)], tmp_path)


@pytest.mark.parametrize("exact", [False, True])
def test_ffprobe_reads_what_was_cut(tmp_path, exact):
    program = shutil.which("ffprobe")
    if program is None:
        pytest.skip("ffprobe is not installed: the files are read back by PyAV alone")
    source = write_flashes(tmp_path / "a.mp4")
    (done,) = cut([hit(source, 2.5, 5.0)], tmp_path / "out", exact=exact).moments
    command = [program, "-v", "error", "-of", "json", "-show_streams", "-show_format", done.path]
    answer = subprocess.run(command, capture_output=True, check=True)
    said = json.loads(answer.stdout)
    assert answer.stderr == b""
    assert [s["codec_name"] for s in said["streams"]] == ["h264", "aac"]
    seconds = done.end_seconds - done.start_seconds
    assert float(said["format"]["duration"]) == pytest.approx(seconds, abs=0.06)


@pytest.mark.parametrize("exact", [False, True])
def test_every_real_clip_can_be_cut(tmp_path, exact):
    clips = sorted(p for p in data.folder("clips").iterdir() if p.suffix != ".json")
    if exact:
        clips = clips[::4]
    report = cut([hit(clip, 0.5, 1.5) for clip in clips], tmp_path / "out", exact=exact)
    assert [m for m in report.moments if m.outcome != WRITTEN] == []
    for moment in report.moments:
        read, source = Read(moment.path, 1), Read(moment.source, 40)
        seconds = moment.end_seconds - moment.start_seconds
        assert read.seconds == pytest.approx(seconds, abs=0.15), moment.source.name
        assert len(read.sounds) == len(source.sounds)
        times = np.array(source.times) - source.times[0]
        assert moment.start_seconds >= 0  # frames that the source passes over are not shown
        at = int(np.flatnonzero(times <= moment.start_seconds + 1e-3)[-1])
        if not exact and moment.path.suffix == ".mp4":
            assert np.array_equal(read.pictures[0], source.pictures[at]), moment.source.name
