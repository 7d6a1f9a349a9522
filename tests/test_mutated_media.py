"""Pictures and videos with a few bytes changed, cut, doubled or lost: each has one outcome."""

import collections
import io
import os
import random
import socket
import threading
import time

import numpy as np
import pytest
from media_files import encoded, exif, gradient, write_video
from PIL import features

from perception_search.decode import Decoded, DecodePool, Failed, FrameSpec, Restarted, Sampling
from perception_search.media import HEAD_BYTES, identify

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_IMAGES, NUM_VIDEOS = (50_000, 20_000) if LONG else (3_000, 600)
SPEC = FrameSpec(32, 32)
OUTCOMES = {"unreadable", "unsupported", "timed_out", "crashed", "out_of_memory", "too_large",
            "skipped", "playlist"}  # fmt: skip
EXTREMES = [bytes.fromhex(number) for number in ("00000000", "ffffffff", "7fffffff", "80000000")]


def pictures():
    """Whole pictures of every format that Pillow writes and we read, by suffix and content."""
    image = gradient(97, 61)
    kinds = [("jpg", "JPEG", {"exif": exif(make="A", orientation=6, date="2020:01:02 03:04:05")}),
             ("jpg", "JPEG", {"progressive": True, "quality": 60}), ("png", "PNG", {}),
             ("tif", "TIFF", {"compression": "tiff_lzw"}), ("tif", "TIFF", {}), ("bmp", "BMP", {}),
             ("jp2", "JPEG2000", {})]  # fmt: skip
    kinds += [("webp", "WEBP", {"lossless": flag}) for flag in (True, False)]
    if features.check("avif"):
        kinds.append(("avif", "AVIF", {}))
    found = [(suffix, encoded(image, name, **how)) for suffix, name, how in kinds]
    frames = [gradient(40 + n, 30).convert("P") for n in range(3)]
    moving = io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    return [*found, ("gif", moving.getvalue())]


def videos(folder):
    """Whole short videos of many containers and codecs, by suffix and content."""
    kinds = {"a.mp4": "libx264", "b.mp4": "mpeg4", "c.mkv": "libx264", "d.webm": "libvpx-vp9",
             "e.avi": "mpeg4", "f.mov": "libx264", "g.ts": "mpeg2video", "h.mp4": "libx265",
             "i.flv": "flv1", "j.wmv": "wmv2"}  # fmt: skip
    found = []
    for name, codec in kinds.items():
        path = folder / name
        write_video(path, 12, codec=codec)
        found.append((path.suffix[1:], path.read_bytes()))
    return found


def mutated(content, others, rng):
    """The same with up to four things done to it; most are done to its beginning."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(content)
        if size < 16:
            break
        reach = rng.choice((64, 512, size))
        at = rng.randrange(min(reach, size))
        length = min(rng.choice((1, 2, 4, 16, 256, 4096)), size - at)
        match rng.randrange(8):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + length] = rng.randbytes(length)
            case 2:
                content[at : at + 4] = rng.choice(EXTREMES)
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = content[at : at + length]
            case 5:
                content[at : at + length] = bytes(length)
            case 6:
                del content[max(at, 16) :]
            case 7:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                content[at : at + length] = other[start : start + length]
    return bytes(content)


def put_through(folder, whole, count, what):
    """Decode `count` mutants of `whole`; how they ended, by outcome."""
    others = [content for _, content in whole]
    ended = collections.Counter()
    waiting = set()

    def paths():
        for number in range(count):
            rng = random.Random(f"{SEED} {what} {number}")
            suffix, content = rng.choice(whole)
            path = folder / f"{number}.{suffix}"
            path.write_bytes(mutated(content, others, rng))
            waiting.add(path)
            yield path

    num_restarts = 0
    with DecodePool(SPEC, Sampling(2.0, 2), num_workers=2, time_limit_seconds=20) as pool:
        for event in pool.decode(paths()):
            if isinstance(event, Restarted):
                num_restarts += 1
            elif isinstance(event, Failed) or (isinstance(event, Decoded) and event.last):
                assert event.path in waiting, f"seed {SEED}: {event.path.name} ended twice"
                waiting.discard(event.path)
                event.path.unlink()
                outcome = event.outcome if isinstance(event, Failed) else "decoded"
                ended[outcome] += 1
            if isinstance(event, Decoded):
                assert event.frames.pixels.shape[1:] == (3, 32, 32)
                assert np.isfinite(event.frames.pts_seconds).all(), f"seed {SEED}: {event.path}"
    assert not waiting, f"seed {SEED}: no outcome of {sorted(path.name for path in waiting)}"
    assert ended.keys() <= OUTCOMES | {"decoded"}, ended
    print(f"{count} mutated {what}: {dict(ended.most_common())}, {num_restarts} tried again")
    return ended


@pytest.fixture
def listener():
    """An address that nothing may connect to: (its port, who did)."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take():
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                came.append(address)
                connection.close()

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(24 * 3600 if LONG else 300)
def test_every_mutated_picture_has_one_outcome(tmp_path):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    ended = put_through(tmp_path, pictures(), NUM_IMAGES, "pictures")
    assert ended["decoded"] > NUM_IMAGES // 20
    assert ended["unreadable"] > NUM_IMAGES // 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(24 * 3600 if LONG else 300)
def test_every_mutated_video_has_one_outcome(tmp_path):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    whole = videos(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    ended = put_through(tmp_path, whole, NUM_VIDEOS, "videos")
    assert ended["decoded"] > NUM_VIDEOS // 20
    assert ended["unreadable"] > NUM_VIDEOS // 20
    assert {path.name for path in tmp_path.iterdir()} == names


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXTINF:1,\nfile://{canary}\n",
    "ffconcat": "ffconcat version 1.0\nfile '{url}'\nfile '{canary}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video {port} RTP/AVP 96\n",
    "mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period>"
    "<AdaptationSet mimeType='video/mp4'><Representation id='1'><BaseURL>{url}</BaseURL>"
    "</Representation></AdaptationSet></Period></MPD>",
    "imf": "<?xml version='1.0'?><CompositionPlaylist><Id>{url}</Id></CompositionPlaylist>",
    "svg": "<svg xmlns='http://www.w3.org/2000/svg'><image href='{url}'/></svg>",
}  # fmt: skip
EXTENSIONS = ("mp4", "mov", "mkv", "webm", "avi", "ts", "mpg", "flv", "wmv", "m3u8", "mpd", "sdp",
              "jpg", "png", "gif", "webp", "tif", "heic", "svg", "txt", "")  # fmt: skip


def test_a_playlist_leads_nowhere_under_any_name(tmp_path, listener):
    port, came = listener
    canary = tmp_path / "canary.mp4"
    write_video(canary, 5)
    past = time.time() - 1e6
    os.utime(canary, (past, past))
    paths = []
    for kind, text in PLAYLISTS.items():
        said = text.format(url=f"http://127.0.0.1:{port}/x.mp4", canary=canary, port=port)
        for extension in EXTENSIONS:
            for before in ("", "\ufeff", "\n\n"):
                path = tmp_path / f"{kind}-{len(paths)}.{extension}"
                path.write_text(before + said)
                paths.append(path)
    with DecodePool(SPEC, num_workers=2) as pool:
        ended = {event.path: event for event in pool.decode(paths)}
    assert set(ended) == set(paths)
    assert all(isinstance(event, Failed) for event in ended.values())
    assert came == []
    assert canary.stat().st_atime == pytest.approx(past, abs=2), "nobody opened it"
    assert identify(canary.read_bytes()[:HEAD_BYTES]).kind == "video"
