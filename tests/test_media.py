import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import encoded, gradient, write_video
from PIL import Image

from perception_search import media


def names(found, root):
    return [f.path.relative_to(root).as_posix() for f in found]


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_come_in_the_order_of_their_names_with_their_sizes_and_times(tmp_path):
    for name in ("b.jpg", "a/2.jpg", "a/1.jpg", "c/d/e.jpg", "a.jpg"):
        write(tmp_path / name, name.encode())
    found = list(media.find([tmp_path]))
    assert names(found, tmp_path) == ["a.jpg", "b.jpg", "a/1.jpg", "a/2.jpg", "c/d/e.jpg"]
    about = (tmp_path / "b.jpg").stat()
    assert found[1] == media.Found(
        tmp_path / "b.jpg", tmp_path, about.st_size, about.st_mtime_ns, about.st_ino
    )


def test_hidden_files_thumbnails_and_collections_are_left_out_by_default(tmp_path):
    kept = ["photo.jpg", "holiday/photo.jpg"]
    left_out = [
        *(".hidden.jpg", "._photo.jpg", ".git/a", "photos.ps/collection.json", "@eaDir/a.jpg"),
        *("x/node_modules/logo.png", "Thumbs.db", "__pycache__/a"),
    ]
    for name in kept + left_out:
        write(tmp_path / name)
    assert sorted(names(media.find([tmp_path]), tmp_path)) == sorted(kept)
    assert len(list(media.find([tmp_path], exclude=()))) == len(kept + left_out)


def test_patterns_match_names_and_paths_below_the_root(tmp_path):
    for name in ("a/x.jpg", "a/raw/x.jpg", "b/raw/x.jpg", "b/x.tmp"):
        write(tmp_path / name)
    found = media.find([tmp_path], exclude=["*.tmp", "b/raw"])
    assert names(found, tmp_path) == ["a/x.jpg", "a/raw/x.jpg"]


def test_a_root_is_never_excluded_and_a_named_file_has_no_root(tmp_path):
    hidden = write(tmp_path / ".hidden" / ".a.jpg")
    assert [(f.path, f.root) for f in media.find([hidden])] == [(hidden, None)]
    other = write(tmp_path / ".hidden" / "b.jpg")
    assert [f.path for f in media.find([tmp_path / ".hidden"])] == [other]


def test_nested_and_repeated_roots_give_each_file_once(tmp_path):
    for name in ("a/1.jpg", "a/b/2.jpg", "3.jpg"):
        write(tmp_path / name)
    roots = [tmp_path / "a", tmp_path, tmp_path, tmp_path / "3.jpg", tmp_path / "a" / "b"]
    assert names(media.find(roots), tmp_path) == ["a/1.jpg", "a/b/2.jpg", "3.jpg"]


def test_a_missing_root_is_told_before_anything_is_found(tmp_path):
    write(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="does not exist; check the spelling"):
        media.find([tmp_path, tmp_path / "nowhere"])


def test_home_is_expanded(tmp_path, monkeypatch):
    write(tmp_path / "Pictures" / "a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(media.find(["~/Pictures"]), tmp_path) == ["Pictures/a.jpg"]


def test_links_to_files_are_followed_and_loops_are_not_entered(tmp_path):
    target = write(tmp_path / "a" / "real.jpg", b"four")
    (tmp_path / "link.jpg").symlink_to(target)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    found = {f.path.name: f for f in media.find([tmp_path])}
    assert set(found) == {"real.jpg", "link.jpg", "loop", "dead.jpg", "self.jpg"}
    assert found["link.jpg"].size_bytes == 4
    assert found["link.jpg"].inode == found["real.jpg"].inode
    assert (found["loop"].outcome, found["dead.jpg"].outcome) == ("not_a_file", "unreadable")
    assert "not followed" in found["loop"].reason
    assert found["self.jpg"].outcome == "unreadable"


def test_pipes_sockets_and_devices_are_reported_and_never_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        found = {f.path.name: (f.outcome, f.reason) for f in media.find([tmp_path])}
    assert found == {
        "pipe.jpg": ("not_a_file", "a named pipe, not a regular file"),
        "socket.mp4": ("not_a_file", "a socket, not a regular file"),
        "zero.png": ("not_a_file", "a device, not a regular file"),
    }


def test_a_folder_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    write(tmp_path / "closed" / "a.jpg")
    write(tmp_path / "open.jpg")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = {f.path.name: (f.outcome, f.reason) for f in media.find([tmp_path])}
    assert found["open.jpg"] == (None, "")
    assert found["closed"] == ("unreadable", "no permission to read the folder")


def test_names_that_are_no_text_are_kept_exactly(tmp_path):
    odd = [b"\xff\xfe.jpg", b"new\nline.jpg", b"\x1b[31mred.jpg", "e\u0301.jpg".encode()]
    for name in odd:
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    assert sorted(os.fsencode(f.path.name) for f in media.find([tmp_path])) == sorted(odd)


def test_paths_are_shown_so_that_no_terminal_obeys_them():
    assert media.display("a b/ü.jpg") == "a b/ü.jpg"
    assert media.display(os.fsdecode(b"\xff\n\x1b[31m\\.jpg")) == r"\xff\n\x1b[31m\\.jpg"
    assert media.display("right\u202eto left") == r"right\u202eto left"


@given(st.binary(min_size=1, max_size=60))
def test_any_name_is_shown_in_printable_characters(name):
    shown = media.display(os.fsdecode(name))
    assert shown.isprintable()
    shown.encode("utf-8")
    assert shown == os.fsdecode(name) or "\\" in shown


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_no_two_names_are_shown_alike(one, other):
    shown = media.display(os.fsdecode(one)) == media.display(os.fsdecode(other))
    assert shown == (one == other)


def test_a_byte_and_the_character_of_its_number_are_shown_differently():
    assert media.display(os.fsdecode(b"\xa0")) == r"\xa0"
    assert media.display("\u00a0") == r"\u00a0"


IMAGES = {
    "JPEG": encoded(gradient(20, 10), "JPEG"),
    "PNG": encoded(gradient(20, 10), "PNG"),
    "GIF": encoded(gradient(20, 10), "GIF"),
    "BMP": encoded(gradient(20, 10), "BMP"),
    "TIFF": encoded(gradient(20, 10), "TIFF"),
    "WEBP": encoded(gradient(20, 10), "WEBP"),
    "AVIF": encoded(gradient(20, 10), "AVIF"),
    "JPEG2000": encoded(gradient(20, 10), "JPEG2000"),
    "PPM": encoded(gradient(20, 10), "PPM"),
}
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_told_by_its_first_bytes(name):
    assert media.identify(IMAGES[name]) == ("image", name)


def test_other_kinds_of_the_same_pictures_are_told_too():
    assert media.identify(HEIC) == ("image", "HEIF")
    assert media.identify(b"MM\0*" + bytes(20)) == ("image", "TIFF")
    assert media.identify(encoded(gradient(8, 8), "GIF")[:6]) == ("image", "GIF")
    codestream = encoded(gradient(20, 10), "JPEG2000", no_jp2=True)
    assert media.identify(codestream) == ("image", "JPEG2000")
    frames = [gradient(20, 10), Image.new("RGB", (20, 10))]
    animated = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    assert media.sniff(animated) == "image"


@pytest.mark.parametrize(
    ("suffix", "codec", "name"),
    [
        (".mp4", "libx264", "mov"),
        (".mov", "mpeg4", "mov"),
        (".mkv", "libx264", "matroska"),
        (".webm", "libvpx-vp9", "matroska"),
        (".avi", "mpeg4", "avi"),
        (".ts", "mpeg2video", "mpegts"),
        (".m2ts", "mpeg2video", "mpegts"),
        (".mpg", "mpeg2video", "mpeg"),
        (".flv", "flv", "flv"),
        (".wmv", "wmv2", "asf"),
    ],
)
def test_a_video_is_told_by_its_first_bytes(tmp_path, suffix, codec, name):
    path = write_video(tmp_path / f"v{suffix}", 5, codec=codec, b_frames=False)
    assert media.identify(path.read_bytes()[: media.HEAD_BYTES]) == ("video", name)


PLAYLISTS = {
    "m3u": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\nfile.ts\n",
    "m3u with a mark": b"\xef\xbb\xbf#EXTM3U\nfile.ts\n",
    "m3u of 16 bits": "\ufeff#EXTM3U\nfile.ts\n".encode("utf-16-le"),
    "m3u after blank lines": b"\n\n  #EXTM3U\nfile.ts\n",
    "m3u without its mark": b"file.ts\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile canary.mp4\n",
    "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
    "sdp hidden in text": b"hello\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "dash": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">',
    "smooth streaming": b'<SmoothStreamingMedia MajorVersion="2">',
    "imf": b'<?xml version="1.0"?><!-- x --><cpl:CompositionPlaylist xmlns="http://x">',
    "pls": b"[playlist]\nFile1=http://127.0.0.1/a.mp3\n",
    "asx": b"<asx version='3.0'><entry><ref href='http://127.0.0.1/'/></entry></asx>",
    "reference": b"[Reference]\r\nRef1=http://127.0.0.1/a.asf\r\n",
    "rtsp text": b"RTSPtext\nrtsp://127.0.0.1/a\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_what_would_lead_ffmpeg_elsewhere_is_a_playlist(name):
    assert media.sniff(PLAYLISTS[name]) == "playlist"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0", b"The freedom of text", b"BMW is a car", b"P5 is a chapter", b"GGGG"),
        *(b"%PDF-1.7", b"<html><body>MPD</body></html>", b"RIFF\0\0\0\0WAVEfmt "),
        b"\0\0\0\x20ftypM4A \0\0\0\0",
    ],
)
def test_what_is_neither_is_nothing(content):
    assert media.sniff(content) == ""


@given(st.binary(max_size=300))
def test_any_bytes_can_be_sniffed(content):
    assert media.sniff(content) in ("image", "video", "playlist", "")


def test_a_name_can_claim_to_be_media():
    for name in ("a.jpg", "A.JPEG", "b.MP4", "c.heic", "d.m2ts", "e.tiff", "\udcff.gif"):
        assert media.claims_media(name)
    for name in ("a.txt", "jpg", ".jpg", "a.ts", "a.jpg.part", "a.mp3", ""):
        assert not media.claims_media(name)
