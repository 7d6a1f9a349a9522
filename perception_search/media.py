"""Finds files and says what each is by its leading bytes; opens no picture and no video.

Nothing here decodes: `find` reads folders, `identify` looks at bytes it is handed.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["image", "video", "playlist", ""]

HEAD_BYTES = 4096
"""How many leading bytes `identify` and `sniff` want to see."""

DEFAULT_EXCLUDE = (
    ".*",  # hidden: .git, .DS_Store, .Trash, .thumbnails, the ._ twins that macOS writes
    "*.ps",  # our own collections
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "Thumbs.db",
    "desktop.ini",
    "node_modules",
    "__pycache__",
)

_MEDIA_EXTENSION = re.compile(
    r"\.(?:jpe?g|jpe|jfif|a?png|webp|gif|bmp|dib|tiff?|avifs?|hei[cf]|hif|jp2|j2[ck]|p[pgbn]m"
    r"|mp4|m4v|mov|qt|3g[p2]|mkv|webm|avi|mpe?g|vob|m2?ts|flv|f4v|ogv|asf|wmv)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Found:
    """One path under a root. `outcome` is None for a regular file, else why it cannot be used.

    Attributes:
        path: absolute, exactly as the file system spells it.
        root: the folder it was found under; None for a file that was named itself.
        outcome: `not_a_file` or `unreadable`; the sizes and times are then 0.
        reason: one plain sentence; empty where outcome is None.
    """

    path: Path
    root: Path | None
    size_bytes: int = 0
    modified_ns: int = 0
    inode: int = 0
    outcome: str | None = None
    reason: str = ""


def find(roots: Iterable[str | Path], exclude: Iterable[str] = DEFAULT_EXCLUDE) -> Iterator[Found]:
    """Every file under the roots, each folder in the order of its names.

    Links to files are followed, links to folders are reported and not followed, so no loop is
    entered; a folder that is reached twice (nested roots) is read once. Pipes, devices and sockets
    are reported, never opened.

    Args:
        roots: folders and files; `~` is expanded. A root itself is never excluded.
        exclude: shell patterns, matched against a file's or folder's name and against its path
            below the root (with `/`). An excluded folder is not entered.

    Raises:
        FileNotFoundError: a root does not exist. Raised before anything is found.
    """
    starts = [_root(root) for root in roots]
    return _walk_all(starts, _matcher(exclude))


def absolute(path: str | Path) -> Path:
    """The path from the root on, `~` expanded, links kept."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  it would follow links


def _root(root: str | Path) -> Path:
    path = absolute(root)
    if not path.exists():
        raise FileNotFoundError(
            f"{display(path)} does not exist; check the spelling, or that its disk is mounted"
        )
    return path


def _matcher(exclude: Iterable[str]) -> re.Pattern[str]:
    patterns = [fnmatch.translate(pattern.rstrip("/")) for pattern in exclude]
    return re.compile("|".join(patterns) if patterns else r"(?!)", re.DOTALL)


def _walk_all(starts: list[Path], excluded: re.Pattern[str]) -> Iterator[Found]:
    named_files = {start for start in starts if not start.is_dir()}
    seen_folders: set[tuple[int, int]] = set()
    for start in dict.fromkeys(starts):
        if start in named_files:
            yield _found(start, None, None)
            continue
        for found in _walk(start, excluded, seen_folders):
            if not named_files or found.path not in named_files:
                yield found


def _walk(
    root: Path, excluded: re.Pattern[str], seen_folders: set[tuple[int, int]]
) -> Iterator[Found]:
    pending = [root]  # folders still to read, the next one last
    while pending:
        folder = pending.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen_folders:
                continue
            seen_folders.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Found(folder, root, outcome="unreadable", reason=_plain(error, "the folder"))
            continue
        subfolders = []
        below = folder.relative_to(root).as_posix()
        for entry in listing:
            relative = entry.name if below == "." else f"{below}/{entry.name}"
            if excluded.match(entry.name) or excluded.match(relative):
                continue
            if _is_folder(entry):
                subfolders.append(folder / entry.name)
            else:
                yield _found(folder / entry.name, root, entry)
        pending.extend(reversed(subfolders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _found(path: Path, root: Path | None, entry: os.DirEntry[str] | None) -> Found:
    try:
        about = path.stat() if entry is None else entry.stat()
    except OSError as error:
        return Found(path, root, outcome="unreadable", reason=_plain(error, "the file"))
    if not stat.S_ISREG(about.st_mode):
        return Found(path, root, outcome="not_a_file", reason=_what_else(about.st_mode))
    return Found(path, root, about.st_size, about.st_mtime_ns, about.st_ino)


def _what_else(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a link to a folder, which is not followed"
    names = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return f"{names.get(stat.S_IFMT(mode), 'something special')}, not a regular file"


def _plain(error: OSError, what: str) -> str:
    if isinstance(error, PermissionError):
        return f"no permission to read {what}"
    if isinstance(error, FileNotFoundError):
        return f"{what} is not there (a link to nothing, or it was removed just now)"
    return f"{what} cannot be read: {error.strerror or error}"


def display(path: str | Path) -> str:
    r"""The path for people: control characters, undecodable bytes and backslashes escaped.

    A byte that is not UTF-8 is shown as \xNN. What is shown can be printed to any terminal.
    """
    text = str(path)
    if text.isprintable() and ("\\" not in text or os.sep == "\\"):
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character == "\\":
        return "\\" if os.sep == "\\" else "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:
        return f"\\u{code:04x}"
    return character.encode("unicode_escape").decode("ascii")


def claims_media(path: str | Path) -> bool:
    """Whether the name ends as a picture's or video's does; such a file is never passed over."""
    return _MEDIA_EXTENSION.fullmatch(os.path.splitext(path)[1]) is not None  # noqa: PTH122


class Format(NamedTuple):
    """What a file's leading bytes say it is.

    Attributes:
        kind: `image`, `video`, `playlist`, or empty where the bytes say nothing known.
        name: the one decoder that may read it: Pillow's name of an image format, FFmpeg's of a
            container, so that neither chooses by itself; for a playlist, what it is called.
    """

    kind: Kind
    name: str


UNKNOWN = Format("", "")

_IMAGE_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_VIDEO_MAGIC = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"\0\0\x01\xb3", "mpegvideo"),
)
_BMP_HEADER_SIZES = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_MOV_BOXES = frozenset((b"moov", b"wide", b"free", b"skip", b"pnot"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEVC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_HEIF_BRANDS = frozenset(
    (*_HEVC_BRANDS, b"mif1", b"mif2", b"mif3", b"msf1", b"avci", b"j2ki", b"jpeg", b"unci")
)
_OTHER_BRANDS = frozenset((b"M4A ", b"M4B ", b"M4P ", b"crx "))  # sound, camera raw

_PNM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*\d+\s")
_PLAYLISTS = (  # text that FFmpeg, or what it calls, would follow to other files or the network
    (re.compile(rb"#EXTM3U|#EXT-X-|#EXTINF", re.IGNORECASE), "an M3U playlist"),
    (re.compile(rb"ffconcat\s", re.IGNORECASE), "an ffconcat script"),
    (re.compile(rb"v=0\s"), "an SDP session"),
    (re.compile(rb"\[(?:playlist|reference)\]", re.IGNORECASE), "a playlist"),
    (re.compile(rb"(?:rtsptext|smiltext)", re.IGNORECASE), "a playlist"),
)
_PLAYLIST_LINE = re.compile(rb"^(?:c=IN IP|#EXTM3U|#EXT-X-|Ref1=)", re.MULTILINE)
_PLAYLIST_XML = re.compile(
    rb"<(?:\?wpl|\w*:?(?:MPD|SmoothStreamingMedia|CompositionPlaylist|AssetMap|PackingList|"
    rb"smil|asx|playlist)[\s>])",
    re.IGNORECASE,
)


def sniff(head: bytes) -> Kind:
    """`image`, `video` or `playlist` by the leading bytes, or empty; names play no part."""
    return identify(head).kind


def identify(head: bytes) -> Format:
    """What a file is, by its first `HEAD_BYTES` bytes."""
    for magic, name in _IMAGE_MAGIC:
        if head.startswith(magic):
            return Format("image", name)
    for magic, name in _VIDEO_MAGIC:
        if head.startswith(magic):
            return Format("video", name)
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], UNKNOWN)
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head[4:8] == b"mdat" or (head[4:8] in _MOV_BOXES and head[0] < 32):  # no text
        return Format("video", "mov")
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return Format("image", "BMP")
    if _PNM.match(head):
        return Format("image", "PPM")
    if _is_transport_stream(head):
        return Format("video", "mpegts")
    return _playlist(head)


_RIFF = {
    b"WEBP": Format("image", "WEBP"),
    b"AVI ": Format("video", "avi"),
    b"AVIX": Format("video", "avi"),
}


def _by_brand(head: bytes) -> Format:
    """An ISO base media file: AVIF, HEIF, or (mostly) a video."""
    end = min(int.from_bytes(head[:4], "big"), 256, len(head))
    brands = [head[8:12], head[12:16], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    if brands[0] in _OTHER_BRANDS:
        return UNKNOWN
    if brands[0] in _AVIF_BRANDS or (brands[0] in _HEIF_BRANDS and _AVIF_BRANDS & set(brands)):
        return Format("image", "AVIF")
    if brands[0] in _HEIF_BRANDS:
        return Format("image", "HEIF")
    return Format("video", "mov")


def _is_transport_stream(head: bytes) -> bool:
    for first, step in ((0, 188), (4, 192), (0, 204)):
        marks = head[first : first + 5 * step : step]
        if len(marks) == 5 and marks == b"G" * 5:
            return True
    return False


def _playlist(head: bytes) -> Format:
    text = head
    for order in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16: drop the zero bytes
        if text.startswith(order):
            text = text[2:].replace(b"\0", b"")
    text = text.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, name in _PLAYLISTS:
        if pattern.match(text):
            return Format("playlist", name)
    if _PLAYLIST_LINE.search(text.split(b"\0", 1)[0]):
        return Format("playlist", "a playlist")
    if text.startswith(b"<") and _PLAYLIST_XML.search(text):
        return Format("playlist", "an XML playlist")
    return UNKNOWN
