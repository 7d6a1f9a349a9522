"""Cuts and measures videos in a process of its own, so that a bad one costs no more.

Run by the parent as `python -m perception_search.export.worker`; it talks as a decode worker does:

    {"do": "clocks", "path"}
        <- {"say": "clocks", "rate", "zero_seconds", "lead_seconds", "duration_seconds",
            "timecode"}
    {"do": "cut", "path", "out", "start_seconds", "end_seconds", "exact"}
        <- {"say": "cut", "start_seconds", "end_seconds", "extension", "note"}
    either
        <- {"say": "failed", "outcome", "reason"}

`out` is an empty file that the parent made; it is written here, and FFmpeg never learns its name.
The worker may write files in the folder it was started with, and make none.
"""

import os
from io import FileIO
from pathlib import Path
from typing import IO, Any

from perception_search import decode_worker
from perception_search.errors import MediaError
from perception_search.export import stretch

MAX_FILE_BYTES = 32 << 30


class _Out:
    """A file that FFmpeg writes; remembers why it could not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.truncate = file.truncate
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


class CutWorker(decode_worker.Worker):
    """Answers requests; holds nothing from one to the next."""

    def _answer(
        self, request: dict[str, Any], file: FileIO, head: bytes, status: os.stat_result
    ) -> None:
        found = decode_worker.identified(head)
        if found.kind != "video":
            raise MediaError("unreadable", "it is no video, or not any more")
        if request["do"] == "clocks":
            clocks = stretch.clocks(file, found.name, max_pixels=self._max_pixels)
            self._say("clocks", **vars(clocks))
            return
        with Path(request["out"]).open("r+b") as target:
            out = _Out(target)
            try:
                piece = stretch.cut(
                    file,
                    found.name,
                    out,  # type: ignore[arg-type]
                    request["start_seconds"],
                    request["end_seconds"],
                    exact=request["exact"],
                    max_pixels=self._max_pixels,
                    num_threads=self._num_threads,
                )
                target.flush()
            except Exception:
                if out.error is None:
                    raise
                raise MediaError(
                    "not_written", f"it could not be written: {out.error.strerror}"
                ) from None
        self._say("cut", **vars(piece))


if __name__ == "__main__":
    decode_worker.main(CutWorker, MAX_FILE_BYTES)
