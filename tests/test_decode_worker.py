"""Files of every sort through a real worker, one at a time."""

import hashlib
import http.server
import io
import os
import socket
import threading
import time

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import encoded, exif, gradient, number_of, write_video
from PIL import Image
from test_media import HEIC, IMAGES, PLAYLISTS

from perception_search.decode import FrameSpec, MediaReader, Sampling, decode_file, thumbnail
from perception_search.errors import MediaError
from perception_search.frames import prepare_image

SPEC = FrameSpec(64, 96)


@pytest.fixture(scope="module")
def reader():
    with MediaReader(time_limit_seconds=20) as reader:
        yield reader


def outcome(reader, path):
    with pytest.raises(MediaError) as error:
        reader.decode(path, SPEC)
    assert error.value.reason == str(error.value)
    assert error.value.reason.isprintable()
    return error.value.outcome


def result(reader, path):
    try:
        reader.decode(path, SPEC)
    except MediaError as error:
        return error.outcome
    return "ingestible"


def write(path, content):
    path.write_bytes(content)
    return path


def test_a_picture_comes_with_what_is_known_of_it(tmp_path, reader):
    block = exif(orientation=6, make="Canon", model="EOS", date="2020:02:03 04:05:06")
    path = write(tmp_path / "a.jpg", encoded(gradient(60, 40), "JPEG", exif=block))
    item, frames = reader.decode(path, SPEC)
    with Image.open(path) as image:
        assert np.array_equal(frames.pixels, prepare_image(image, SPEC)[None])
    assert frames.pts_seconds.tolist() == [0.0]
    assert frames.on_grid.tolist() == [True]
    assert frames.num_uniform.tolist() == [1]
    assert item.path == path
    assert item.kind == "image"
    assert item.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (item.size_bytes, item.modified_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert (item.width, item.height) == (40, 60)
    assert (item.taken_at, item.camera) == ("2020-02-03T04:05:06", "Canon EOS")
    assert (item.duration_seconds, item.latitude, item.longitude) == (None, None, None)


def test_a_video_comes_whole_and_in_order(tmp_path, reader):
    path = write_video(tmp_path / "a.mp4", 500)
    item, frames = reader.decode(path, SPEC, Sampling(2.0, 8))
    assert (item.kind, item.width, item.height) == ("video", 96, 64)
    assert item.duration_seconds == pytest.approx(20)
    assert item.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert frames.pts_seconds[frames.on_grid].tolist() == [j / 2 for j in range(40)]
    shown = [number_of(p) for p in frames.pixels[frames.on_grid]]
    assert shown == [int(j * 12.5) for j in range(40)]
    assert frames.num_uniform.sum() == 8
    assert np.all(np.diff(frames.pts_seconds) >= 0)


def test_the_cuts_of_a_video_come_with_it(tmp_path, reader):
    path = tmp_path / "a.mp4"
    picture = np.asarray(gradient(192, 108))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 192, 108, "yuv420p"
        for number in range(150):
            shown = 255 - picture if 50 <= number < 110 else picture
            output.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        output.mux(stream.encode())
    assert reader.decode(path, SPEC)[0].cuts == pytest.approx((2.0, 4.4))
    assert reader.decode(path, SPEC, Sampling(grid="keyframes"))[0].cuts is None
    still = write(tmp_path / "a.png", next(iter(IMAGES.values())))
    assert reader.decode(still, SPEC)[0].cuts is None


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("suffix", [".png", ".mp4", ".txt", ""])
def test_the_extension_plays_no_part(tmp_path, reader, name, suffix):
    item, frames = reader.decode(write(tmp_path / f"a{suffix}", IMAGES[name]), SPEC)
    assert (item.kind, item.width, item.height, len(frames.pixels)) == ("image", 20, 10, 1)


def test_a_video_named_as_a_picture_is_a_video(tmp_path, reader):
    path = write_video(tmp_path / "a.mp4", 30).rename(tmp_path / "a.jpg")
    assert reader.decode(path, SPEC)[0].kind == "video"


def test_what_is_no_media_is_passed_over_unless_its_name_says_otherwise(tmp_path, reader):
    for content in (b"just text", b"", bytes(1000)):
        assert outcome(reader, write(tmp_path / "a.txt", content)) == "skipped"
        assert outcome(reader, write(tmp_path / "a.jpg", content)) == "unreadable"
        assert outcome(reader, write(tmp_path / "a.MP4", content)) == "unreadable"


@pytest.mark.parametrize("suffix", [".mp4", ".jpg", ".m3u8", ".txt", ""])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_is_never_followed(tmp_path, reader, name, suffix):
    write_video(tmp_path / "canary.mp4", 5)
    (tmp_path / "file.ts").symlink_to(tmp_path / "canary.mp4")
    assert outcome(reader, write(tmp_path / f"list{suffix}", PLAYLISTS[name])) == "playlist"


def test_no_playlist_makes_a_request(tmp_path, reader):
    visits = []

    class Visited(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            visits.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Visited) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"127.0.0.1:{server.server_port}"
        texts = [
            f"#EXTM3U\n#EXTINF:1,\nhttp://{url}/a.ts\n",
            f"ffconcat version 1.0\nfile http://{url}/a.mp4\n",
            f'<?xml version="1.0"?><MPD><BaseURL>http://{url}/</BaseURL></MPD>',
            f"[playlist]\nFile1=http://{url}/a.mp4\n",
            f"http://{url}/a.mp4\n",
            f"v=0\nc=IN IP4 127.0.0.1\nm=video {udp.getsockname()[1]} RTP/AVP 33\n",
            f"junk\nc=IN IP4 127.0.0.1\nm=video {udp.getsockname()[1]} RTP/AVP 33\n",
        ]
        for number, text in enumerate(texts):
            for suffix in (".mp4", ".jpg", ".ts", ".m3u8", ".sdp"):
                path = write(tmp_path / f"{number}{suffix}", text.encode())
                assert outcome(reader, path) in ("playlist", "skipped", "unreadable")
        server.shutdown()
        with pytest.raises(BlockingIOError):
            udp.recv(1)
    assert visits == []


def test_pipes_and_devices_are_not_opened(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    started = time.monotonic()
    for path in (tmp_path / "pipe.jpg", tmp_path / "zero.jpg", tmp_path):
        assert outcome(reader, path) == "not_a_file"
    assert time.monotonic() - started < 5


def test_files_that_cannot_be_opened_are_unreadable(tmp_path, reader):
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for path in (tmp_path / "nowhere.jpg", tmp_path / "loop.jpg", tmp_path / ("x" * 5000)):
        assert outcome(reader, path) == "unreadable"
    assert outcome(reader, "/proc/self/mem") == "unreadable"


def test_a_giant_that_is_mostly_holes_is_told_at_once(tmp_path, reader):
    started = time.monotonic()
    for name, head, expected in (
        ("a.mp4", write_video(tmp_path / "v.mp4", 5).read_bytes(), "unreadable"),
        ("a.jpg", IMAGES["JPEG"], "too_large"),
        ("a.txt", b"text", "skipped"),
        ("b.mp4", bytes(16), "unreadable"),
    ):
        path = write(tmp_path / name, head)
        os.truncate(path, 1 << 42)
        assert outcome(reader, path) == expected
    assert time.monotonic() - started < 5


def test_odd_names_are_kept_exactly(tmp_path, reader):
    for name in (b"\xff\xfe\x80", b"new\nline", b"\x1b[31m", b"a" * 251, "猫😀".encode(), b'"\\'):
        path = tmp_path / os.fsdecode(name + b".png")
        item, _ = reader.decode(write(path, IMAGES["PNG"]), SPEC)
        assert os.fsencode(item.path) == os.fsencode(path)


@pytest.mark.parametrize("name", IMAGES)
def test_every_end_of_a_file_can_be_missing(tmp_path, reader, name):
    data = IMAGES[name]
    path = tmp_path / "a.jpg"
    for end in range(1, len(data), max(1, len(data) // 25)):
        assert result(reader, write(path, data[:end])) in ("ingestible", "unreadable")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from([*IMAGES, "MP4"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))),
)
def test_any_change_of_any_bytes_is_one_outcome(tmp_path, reader, name, changes):
    source = tmp_path / "source.mp4"
    if not source.exists():
        write_video(source, 10)
    data = bytearray(IMAGES.get(name) or source.read_bytes())
    for at, change in changes:
        at %= len(data)
        data[at : at + len(change)] = change
    said = result(reader, write(tmp_path / "a.jpg", bytes(data)))
    # unsupported: the letters that name the codec are among the bytes
    known = ("ingestible", "unreadable", "too_large", "playlist", "out_of_memory", "unsupported")
    assert said in known


def test_heif_is_read_or_names_its_extra(tmp_path, reader):
    path = write(tmp_path / "a.heic", HEIC)
    with pytest.raises(MediaError) as error:
        reader.decode(path, SPEC)
    assert error.value.outcome in ("unsupported", "unreadable")
    if error.value.outcome == "unsupported":
        assert "perception-search[heif]" in error.value.reason


def test_what_does_not_fit_the_memory_limit_is_told_and_costs_one_file(tmp_path):
    large = write(tmp_path / "large.png", encoded(Image.new("RGB", (6000, 6000)), "PNG"))
    small = write(tmp_path / "small.png", IMAGES["PNG"])
    with MediaReader(memory_limit_bytes=64 << 20) as reader:
        assert outcome(reader, large) == "out_of_memory"
        assert reader.decode(small, SPEC)[0].width == 20
    assert decode_file(large, SPEC)[0].width == 6000


def test_fifty_million_pixels_fit_the_memory_limit(tmp_path, reader):
    image = Image.new("RGBA", (7071, 7071), (1, 2, 3, 4))
    for format_name, saved in (("PNG", image), ("JPEG", image.convert("RGB"))):
        path = write(tmp_path / "a", encoded(saved, format_name))
        assert reader.decode(path, SPEC)[0].height == 7071
    grey = Image.fromarray(np.zeros((7071, 7071), np.uint16))
    assert reader.decode(write(tmp_path / "a", encoded(grey, "PNG")), SPEC)[0].width == 7071
    larger = write(tmp_path / "a", encoded(Image.new("L", (7072, 7072)), "PNG"))
    assert outcome(reader, larger) == "too_large"


def test_one_worker_is_used_again_and_replaced_when_it_is_gone(tmp_path):
    path = write(tmp_path / "a.png", IMAGES["PNG"])
    with MediaReader() as reader:
        reader.decode(path, SPEC)
        first = reader._process
        reader.decode(path, SPEC)
        assert reader._process is first
        first._process.kill()
        first._process.wait()
        reader.decode(path, SPEC)
        assert reader._process is not first
    assert reader._process is None


def test_threads_share_a_reader(tmp_path, reader):
    paths = [write(tmp_path / f"{i}.png", encoded(gradient(10 + i, 10), "PNG")) for i in range(12)]
    widths = [0] * len(paths)

    def read(number):
        widths[number] = reader.decode(paths[number], SPEC)[0].width

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert widths == [10 + i for i in range(12)]


def test_thumbnails_of_pictures_and_videos(tmp_path, reader):
    photo = encoded(gradient(640, 400), "JPEG", exif=exif(orientation=6))
    with Image.open(io.BytesIO(reader.thumbnail(write(tmp_path / "a.jpg", photo)))) as small:
        assert (small.format, small.size) == ("JPEG", (200, 320))
    video = write_video(tmp_path / "a.mp4", 60)
    jpeg = reader.thumbnail(video, 1.0, 96)
    with Image.open(io.BytesIO(jpeg)) as small:
        assert number_of(np.asarray(small).transpose(2, 0, 1)) == 25
    assert thumbnail(video, 1.0, 96) == jpeg
    with pytest.raises(MediaError) as error:
        reader.thumbnail(write(tmp_path / "a.txt", b"text"))
    assert error.value.outcome == "skipped"
    with pytest.raises(ValueError, match="max_side=0"):
        reader.thumbnail(video, 0.0, 0)


def test_a_worker_prints_nothing_among_its_messages(tmp_path, reader, capfd):
    # libtiff and FFmpeg complain on standard error and output at such files
    tiff = encoded(gradient(64, 64), "TIFF", compression="tiff_lzw")
    for end in range(len(tiff) // 2, len(tiff), 211):
        result(reader, write(tmp_path / "a.tif", tiff[:end]))
    assert capfd.readouterr() == ("", "")
