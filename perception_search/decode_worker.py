"""Decodes files in a process of its own, so that a bad one costs no more; imports no torch.

Run by the parent as `python -m perception_search.decode_worker`; `decode_messages` says how
messages look. The worker confines itself, says `ready` (or `unusable` with a reason), then answers
one request at a time:

    <- {"say": "ready", "impossible", "not_granted"}: what `confinement` made of it

    {"do": "decode", "path", "spec", "sampling"}
        <- {"say": "identified", "hash", "kind", "size_bytes", "modified_ns"}
        -> {"do": "go"} or {"do": "skip"}, which ends it
        <- {"say": "frames", "shape", "pts_seconds", "on_grid", "num_uniform", "item"} + pixels,
           once or more; "item" is null on all but the last, which ends it: it holds what
           a MediaItem says beyond what was identified
        <- {"say": "progress"}: a sign of life, at any time
        <- {"say": "forget_uniform"}: the num_uniform sent so far are void
    {"do": "thumbnail", "path", "at_seconds", "max_side"}
        <- {"say": "thumbnail"} + JPEG
    either, at any time
        <- {"say": "failed", "outcome", "reason"}, which ends it

A file is opened once, without following it into a pipe or a device; what is decoded is what was
hashed. Its kind is told by its leading bytes. Every exception stops at the file. The worker ends
when its input does.
"""

import argparse
import hashlib
import importlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from perception_search import decode_image, decode_messages, media
from perception_search.confinement import confine, impossible, scratch_folder
from perception_search.decode_limits import (
    limit_this_process,
    renew_processor_time,
    widen_pipe,
)
from perception_search.errors import MediaError, MissingExtra
from perception_search.frames import Frames, FrameSpec, Sampling

MAX_IMAGE_BYTES = 512 << 20

_BLOCK_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
_SIGN_OF_LIFE_BYTES = 256 << 20
_SPARSE_BYTES = 1 << 30
_FRESH_NS = 2_000_000_000
_VIDEO_MODULES = {
    "pyav": "perception_search.decode_video",
    "torchcodec": "perception_search.decode_torchcodec",
}


class Worker:
    """Answers requests; holds nothing from one to the next."""

    def __init__(self, out_fd: int, in_fd: int, options: argparse.Namespace) -> None:
        self._out_fd = out_fd
        self._in_fd = in_fd
        self._max_pixels: int = options.max_pixels
        self._memory_limit_bytes: int = options.memory_limit_bytes
        self._num_threads: int = options.num_threads
        self._video_backend: str = options.video_backend

    def serve(self) -> None:
        """Answers until the input ends."""
        while (request := decode_messages.read(self._in_fd)) is not None:
            path = request["path"]
            renew_processor_time()
            try:
                with _opened(path) as (file, head, status):
                    self._answer(request, file, head, status)
            except MediaError as error:
                outcome = error.outcome
                if outcome == "skipped" and media.claims_media(path):
                    outcome = "unreadable"
                self._fail(outcome, error.reason)
            except MemoryError:
                allowed = f"{self._memory_limit_bytes >> 20:,} MiB"
                self._fail(
                    "out_of_memory", f"needs more than {allowed} of memory; allow more to try"
                )
            except FileNotFoundError:
                self._fail("unreadable", "it is not there any more")
            except PermissionError:
                self._fail("unreadable", "no permission to read it")
            except Exception as error:  # the file boundary: decoders raise anything at bad bytes
                self._fail("unreadable", _plain(error))

    def _say(self, what: str, **header: Any) -> None:
        decode_messages.write(self._out_fd, {"say": what, **header})

    def _fail(self, outcome: str, reason: str) -> None:
        self._say("failed", outcome=outcome, reason=reason)

    def _answer(
        self, request: dict[str, Any], file: FileIO, head: bytes, status: os.stat_result
    ) -> None:
        found = identified(head)
        if found.kind == "":
            raise MediaError("skipped", _not_media(status))
        if found.kind == "image":
            data = _whole(file, status)
            if request["do"] == "thumbnail":
                self._send_jpeg(
                    decode_image.image_thumbnail(
                        data, found.name, request["max_side"], self._max_pixels
                    )
                )
            elif self._is_wanted("image", hashlib.sha256(data).hexdigest(), status):
                self._decode_image(request, data, found.name)
        elif request["do"] == "thumbnail":
            from perception_search.decode_video import video_thumbnail

            self._send_jpeg(
                video_thumbnail(
                    file,
                    found.name,
                    request["at_seconds"],
                    request["max_side"],
                    max_pixels=self._max_pixels,
                )
            )
        else:
            self._decode_video(request, file, found.name, status)

    def _send_jpeg(self, jpeg: bytes) -> None:
        decode_messages.write(self._out_fd, {"say": "thumbnail"}, jpeg)

    def _is_wanted(self, kind: str, content_hash: str, status: os.stat_result) -> bool:
        """What the parent says; it skips content that it knows."""
        self._content_hash = content_hash
        self._say(
            "identified",
            hash=content_hash,
            kind=kind,
            size_bytes=status.st_size,
            modified_ns=status.st_mtime_ns,
        )
        reply = decode_messages.read(self._in_fd)
        if reply is None:
            sys.exit()
        return bool(reply["do"] == "go")

    def _decode_image(self, request: dict[str, Any], data: bytes, format_name: str) -> None:
        spec = FrameSpec(**request["spec"])
        image = decode_image.decode_image(data, format_name, spec, self._max_pixels)
        frames = Frames(
            pixels=image.pixels[None],  # (1, 3, H, W)
            pts_seconds=np.zeros(1),
            on_grid=np.ones(1, np.bool_),
            num_uniform=np.ones(1, np.int64),
        )
        size = {"width": image.width, "height": image.height}
        self._send_frames(frames, size | vars(image.facts))

    def _decode_video(
        self, request: dict[str, Any], file: FileIO, format_name: str, status: os.stat_result
    ) -> None:
        _refuse_sparse(status)
        is_fresh = time.time_ns() - status.st_mtime_ns < _FRESH_NS
        if not self._is_wanted("video", self._hash(file, status), status):
            return
        try:
            frames, item = self._send_all_but_the_last(request, file, format_name)
        finally:  # a change is the reason of whatever went wrong
            _check_unchanged(file, status)
        # A change within the clock's grain of the last one leaves the times as they were.
        if is_fresh and self._hash(file, status) != self._content_hash:
            raise _changed()
        self._send_frames(frames, item)

    def _send_all_but_the_last(
        self, request: dict[str, Any], file: FileIO, format_name: str
    ) -> tuple[Frames, dict[str, Any]]:
        """Sends a video's frames as they come; the last ones wait for the item."""
        backend = importlib.import_module(_VIDEO_MODULES[self._video_backend])
        held: Frames | None = None
        summary = None
        for step in backend.decode_video(
            file,
            format_name,
            FrameSpec(**request["spec"]),
            Sampling(**request["sampling"]),
            max_pixels=self._max_pixels,
            num_threads=self._num_threads,
        ):
            if isinstance(step, str):
                self._say(step)
            elif isinstance(step, Frames):
                if held is not None:
                    self._send_frames(held, None)
                held = step
            else:
                summary = step
        assert held is not None
        assert summary is not None
        size = {"width": summary.width, "height": summary.height}
        seen = {"duration_seconds": summary.duration_seconds, "cuts": summary.cuts}
        return held, size | seen | vars(summary.facts)

    def _hash(self, file: FileIO, status: os.stat_result) -> str:
        file.seek(0)
        digest = hashlib.sha256()
        block = bytearray(_BLOCK_BYTES)
        num_bytes = 0
        while got := file.readinto(block):
            digest.update(memoryview(block)[:got])
            num_bytes += got
            if num_bytes > status.st_size:
                break
            if num_bytes // _SIGN_OF_LIFE_BYTES != (num_bytes - got) // _SIGN_OF_LIFE_BYTES:
                self._say("progress")
        if num_bytes != status.st_size:
            raise _changed()
        return digest.hexdigest()

    def _send_frames(self, frames: Frames, item: dict[str, Any] | None) -> None:
        header = {
            "say": "frames",
            "shape": frames.pixels.shape,
            "pts_seconds": frames.pts_seconds.tolist(),
            "on_grid": frames.on_grid.tolist(),
            "num_uniform": frames.num_uniform.tolist(),
            "item": item,
        }
        decode_messages.write(self._out_fd, header, frames.pixels.data)


def identified(head: bytes) -> media.Format:
    """What a file is, by its leading bytes.

    Raises:
        MediaError: it names other files.
    """
    found = media.identify(head)
    if found.kind == "playlist":
        raise MediaError("playlist", f"{found.name}: it names other files, which are not read")
    return found


@contextmanager
def _opened(path: str) -> Iterator[tuple[FileIO, bytes, os.stat_result]]:
    """The file, its leading bytes and its status; never waits, never opens a device."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise MediaError("not_a_file", "not a regular file")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with FileIO(os.open(path, flags)) as file:  # by number: its name would stand in messages
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise MediaError("not_a_file", "not a regular file")
        yield file, file.read(media.HEAD_BYTES), status


def _not_media(status: os.stat_result) -> str:
    return "not a picture or video that is known here" if status.st_size else "it is empty"


def _whole(file: FileIO, status: os.stat_result) -> bytes:
    if status.st_size > MAX_IMAGE_BYTES:
        raise MediaError(
            "too_large", f"a picture of {status.st_size:,} bytes, more than {MAX_IMAGE_BYTES:,}"
        )
    file.seek(0)
    data = file.read(status.st_size + 1)
    if len(data) != status.st_size:
        raise _changed()
    _check_unchanged(file, status)
    return data


def _refuse_sparse(status: os.stat_result) -> None:
    on_disk = getattr(status, "st_blocks", 0) * 512
    if status.st_size > _SPARSE_BYTES and 0 < on_disk < status.st_size // 10:
        raise MediaError(
            "unreadable",
            f"it says {status.st_size:,} bytes but holds {on_disk:,}: a download not finished?",
        )


def _check_unchanged(file: IO[bytes], before: os.stat_result) -> None:
    now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
    ):
        raise _changed()


def _changed() -> MediaError:
    return MediaError("changed_during_read", "it was changed while it was read")


def _plain(error: Exception) -> str:
    """One line of what a decoder said, with nothing in it that a terminal would obey."""
    words = getattr(error, "strerror", None) or str(error)  # FFmpeg's own, without a number
    said = " ".join(media.display(words).split())[:200]
    return f"damaged, or not what it says it is ({type(error).__name__}{said and ': '}{said})"


def main(make: type[Worker] = Worker, file_limit_bytes: int = 0) -> None:
    """Runs a worker on standard input and output.

    Args:
        make: the worker.
        file_limit_bytes: that it may write to one file.
    """
    # Libraries print: what they print must not get among the messages.
    in_fd, out_fd = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory-limit-bytes", type=int, required=True)
    parser.add_argument("--max-pixels", type=int, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--video-backend", choices=sorted(_VIDEO_MODULES), required=True)
    parser.add_argument("--write-folder", type=Path)
    options = parser.parse_args()
    widen_pipe(out_fd, _PIPE_BYTES)
    try:
        if options.video_backend != "pyav":  # a missing package is said before any file is read
            importlib.import_module(_VIDEO_MODULES[options.video_backend])
    except MissingExtra as error:
        decode_messages.write(out_fd, {"say": "unusable", "reason": str(error)})
        return
    decode_image.set_up(options.max_pixels)
    scratch = scratch_folder()
    not_granted = confine(options.write_folder)
    limit_this_process(options.memory_limit_bytes, file_limit_bytes)
    decode_messages.write(
        out_fd,
        {"say": "ready", "impossible": impossible(scratch), "not_granted": not_granted},
    )
    make(out_fd, in_fd, options).serve()


if __name__ == "__main__":
    main()
