"""What becomes of a file, as events, and the talk with a worker that yields them."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from perception_search import decode_messages
from perception_search.decode_process import Message, WorkerDied, WorkerProcess, lost_its_way
from perception_search.errors import MediaError
from perception_search.frames import Frames, FrameSpec, MediaItem, Sampling

Claim = Callable[[Path, str, str], bool]

_MAX_FRAMES = 16
_MAX_THUMBNAIL_BYTES = 64 << 20
_GO = decode_messages.packed({"do": "go"})
_SKIP = decode_messages.packed({"do": "skip"})


@dataclass(frozen=True)
class Decoded:
    """Some frames of a file. A file's events come in order; those of files are mixed.

    Attributes:
        attempt: 1, or 2 after `Restarted`.
        item: the file; None on all but its last frames.
        last: whether these are its last frames.
    """

    path: Path
    attempt: int
    item: MediaItem | None
    frames: Frames
    last: bool


@dataclass(frozen=True)
class Restarted:
    """The file is begun again: all frames of it so far are void."""

    path: Path
    attempt: int


@dataclass(frozen=True)
class ForgetUniform:
    """The `num_uniform` of the file's frames so far are void; the right ones follow."""

    path: Path


@dataclass(frozen=True)
class Failed:
    """The file cannot be used; all frames of it so far are void.

    Attributes:
        outcome: one word: `unreadable`, `timed_out`, `skipped` (no media), ...
        reason: one plain sentence.
        content_hash: None where the file was not read that far.
    """

    path: Path
    outcome: str
    reason: str
    content_hash: str | None = None
    kind: str | None = None
    size_bytes: int = 0
    modified_ns: int = 0


@dataclass(frozen=True)
class Known:
    """`claim` did not want the file's content."""

    path: Path
    content_hash: str
    kind: str
    size_bytes: int
    modified_ns: int


Event = Decoded | Restarted | ForgetUniform | Failed | Known


def decode_request(spec: FrameSpec, sampling: Sampling) -> dict[str, Any]:
    """What a worker is asked to decode a file, without the file."""
    return {"do": "decode", "spec": asdict(spec), "sampling": asdict(sampling)}


class FileTalk:
    """The talk with workers about one file."""

    def __init__(
        self,
        path: Path,
        request: dict[str, Any],
        *,
        spec: FrameSpec | None = None,
        time_limit_seconds: float,
        claim: Claim | None = None,
    ) -> None:
        """Says nothing yet.

        Args:
            path: of the file.
            request: what to ask, without the path.
            spec: the pixels that will come; None for a thumbnail.
            time_limit_seconds: that a worker may take; for a video, without news.
            claim: asked once whether the content is wanted; None wants all.
        """
        self._path = path
        self._request = decode_messages.packed({**request, "path": str(path)})
        self._shape = (3, spec.height, spec.width) if spec else (0,)
        self._max_payload_bytes = _MAX_FRAMES * math.prod(self._shape)
        self._limit_seconds = time_limit_seconds
        self._claim = claim
        self._identified: _Identified | None = None
        self._claimed = True

    def events(self, worker: WorkerProcess, attempt: int) -> Iterator[Event]:
        """What one worker makes of it.

        Raises:
            WorkerDied: it did not survive; the file may be tried with another.
        """
        worker.ask(self._request)
        left_seconds = self._limit_seconds
        while True:
            message = worker.answer(left_seconds, self._max_payload_bytes)
            left_seconds -= worker.waiting_seconds
            match message.say:
                case "identified":
                    if not self._is_wanted(worker, message.header):
                        yield self._known()
                        return
                case "frames":
                    decoded = self._decoded(message, attempt)
                    yield decoded
                    if decoded.last:
                        worker.num_answered += 1
                        return
                case "forget_uniform":
                    yield ForgetUniform(self._path)
                case "failed":
                    outcome, reason = _failure(message)
                    if outcome == "out_of_memory" and worker.num_answered:
                        raise WorkerDied(outcome, reason)  # memory that earlier files left?
                    worker.num_answered += 1
                    yield self.failed(outcome, reason)
                    return
                case "progress":
                    pass
                case _:
                    raise lost_its_way()
            if message.say != "identified":
                left_seconds = self._limit_seconds

    def thumbnail(self, worker: WorkerProcess) -> bytes:
        """What one worker makes of a request for a thumbnail.

        Raises:
            MediaError: the file cannot be used.
            WorkerDied: the worker did not survive.
        """
        worker.ask(self._request)
        message = worker.answer(self._limit_seconds, _MAX_THUMBNAIL_BYTES)
        if message.say == "failed":
            raise MediaError(*_failure(message))
        if message.say != "thumbnail":
            raise lost_its_way()
        return message.payload.tobytes()

    def failed(self, outcome: str, reason: str) -> Failed:
        """The event that ends it badly."""
        about = self._identified
        if about is None:
            return Failed(self._path, outcome, reason)
        return Failed(
            self._path,
            outcome,
            reason,
            about.content_hash,
            about.kind,
            about.size_bytes,
            about.modified_ns,
        )

    def _is_wanted(self, worker: WorkerProcess, header: dict[str, Any]) -> bool:
        """Asks the caller, at the first attempt, and tells the worker."""
        now = _Identified.of(header)
        if self._identified is None:
            self._identified = now
            if self._claim is not None:
                self._claimed = self._claim(self._path, now.content_hash, now.kind)
        elif now.content_hash != self._identified.content_hash:
            raise WorkerDied("changed_during_read", "it was changed while it was read")
        worker.ask(_GO if self._claimed else _SKIP)
        return self._claimed

    def _known(self) -> Known:
        about = self._identified
        assert about is not None
        return Known(
            self._path, about.content_hash, about.kind, about.size_bytes, about.modified_ns
        )

    def _decoded(self, message: Message, attempt: int) -> Decoded:
        with _believed():
            frames = _frames(message, self._shape)
            item = self._item(message.header["item"])
        return Decoded(self._path, attempt, item, frames, last=item is not None)

    def _item(self, said: dict[str, Any] | None) -> MediaItem | None:
        about = self._identified
        if about is None:
            raise ValueError("frames of a file that was not identified")
        if said is None:
            return None
        for name, value in said.items():
            if not isinstance(value, _ITEM_TYPES[name]):
                raise TypeError(f"{name} is a {type(value).__name__}")
        return MediaItem(
            path=self._path,
            kind=about.kind,
            content_hash=about.content_hash,
            size_bytes=about.size_bytes,
            modified_ns=about.modified_ns,
            **{**said, "cuts": _cuts(said.get("cuts"))},
        )


@dataclass(frozen=True)
class _Identified:
    """What a worker found a file to be; checked, since names are made of the hash."""

    content_hash: str
    kind: Literal["image", "video"]
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, header: dict[str, Any]) -> "_Identified":
        with _believed():
            if not re.fullmatch("[0-9a-f]{64}", header["hash"]):
                raise ValueError("no SHA-256")
            if header["kind"] not in ("image", "video"):
                raise ValueError("no kind of media")
            size_bytes, modified_ns = int(header["size_bytes"]), int(header["modified_ns"])
            return cls(header["hash"], header["kind"], size_bytes, modified_ns)


_TEXT, _NUMBER = str | None, float | int | None
_ITEM_TYPES: dict[str, Any] = {
    "width": int,
    "height": int,
    "duration_seconds": _NUMBER,
    "taken_at": _TEXT,
    "camera": _TEXT,
    "latitude": _NUMBER,
    "longitude": _NUMBER,
    "cuts": list | None,
}


def _cuts(said: list[Any] | None) -> tuple[float, ...] | None:
    if said is None:
        return None
    cuts = np.array(said, np.float64)
    if cuts.ndim != 1 or not np.isfinite(cuts).all() or (np.diff(cuts) < 0).any():
        raise ValueError("cuts that are no times")
    return tuple(cuts.tolist())


def _frames(message: Message, shape: tuple[int, ...]) -> Frames:
    header = message.header
    frames = Frames(
        pixels=message.payload.reshape(-1, *shape),  # (T, 3, H, W)
        pts_seconds=np.array(header["pts_seconds"], np.float64),
        on_grid=np.array(header["on_grid"], np.bool_),
        num_uniform=np.array(header["num_uniform"], np.int64),
    )
    lengths = {part.shape[:1] for part in vars(frames).values()}
    if len(lengths) != 1 or (0,) in lengths or frames.pts_seconds.ndim != 1:
        raise ValueError(f"parts of {sorted(lengths)} frames")
    return frames


def _failure(message: Message) -> tuple[str, str]:
    with _believed():
        return str(message.header["outcome"]), str(message.header["reason"])


@contextlib.contextmanager
def _believed() -> Iterator[None]:
    """What a worker says is used inside: where it makes no sense, the worker counts as crashed."""
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise lost_its_way() from None
