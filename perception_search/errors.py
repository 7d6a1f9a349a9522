"""Every error that is raised on purpose; knows nothing of what raises them.

    PerceptionSearchError
    ├── CollectionError           a collection is not in the state that was asked for
    │   ├── CollectionNotFound    no collection at this path
    │   ├── CollectionExists      create() on a path that is taken
    │   ├── CollectionMismatch    opened with another model, weights or preprocessing
    │   ├── CollectionLocked      another process is writing
    │   ├── CollectionDamaged     a file does not hold what was written
    │   └── StorageError          the disk failed while something was written; an OSError too
    ├── EncoderError
    │   ├── ModelNotFound         no such model name
    │   ├── WeightsNotFound       the name is known, its weights are nowhere
    │   └── WeightsMismatch       a tensor is missing, extra or of the wrong shape
    ├── MediaError                one file cannot be used; carries its outcome
    ├── QueryError                a query or a filter that cannot be answered
    ├── ExportError               hits cannot be written in the form that was asked for
    ├── DownloadError             a file could not be fetched, or is not the one promised
    ├── MissingExtra              an optional package is needed
    └── LicenceNotAccepted        a model's licence was not accepted yet

Misuse of a function (a wrong type, a negative k) raises the built-in ValueError or TypeError.
Every message says what came, what is allowed and what to do.
"""

import errno


class PerceptionSearchWarning(UserWarning):
    """The answer stands, but there is something to know about it."""


class PerceptionSearchError(Exception):
    """Base of every error in this package: catch it to catch them all."""


class CollectionError(PerceptionSearchError):
    """A collection is not in the state that was asked for."""


class CollectionNotFound(CollectionError):
    """There is no collection at this path."""


class CollectionExists(CollectionError):
    """The path already holds something."""


class CollectionMismatch(CollectionError):
    """The collection was made with another model, other weights or another preprocessing."""


class CollectionLocked(CollectionError):
    """Another process is writing to the collection."""


class CollectionDamaged(CollectionError):
    """A file of the collection does not hold what was written to it."""


_GONE = ("its disk or its folder is gone", "plug it in or mount it")
_FORBIDDEN = ("it is not permitted", "see to it that you may write there")
_TROUBLE = {
    errno.ENOSPC: ("the disk is full", "make room"),
    errno.EDQUOT: ("your share of the disk is used up", "make room"),
    errno.EFBIG: ("files of this size are not allowed here", "raise the limit (ulimit -f)"),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: ("the disk can only be read", "make it writable, or copy the folder elsewhere"),
    errno.EIO: ("the disk fails", "look at its health, and copy the folder to another one"),
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    errno.ESTALE: _GONE,
    errno.ENOTCONN: _GONE,
}


class StorageError(CollectionError, OSError):
    """The disk failed while something was written; what was reported before is safe.

    Attributes:
        errno: the system's number of what went wrong, as of every OSError.
        filename: the file or folder that was being written.
    """

    def __str__(self) -> str:
        what, remedy = _TROUBLE.get(self.errno or 0, ("it fails", "see to it"))
        return (
            f"{self.filename} could not be written: {what} ({self.strerror}). What was reported "
            f"before is safe. {remedy[0].upper()}{remedy[1:]}, then run it again: it goes on."
        )


class EncoderError(PerceptionSearchError):
    """An encoder cannot be made, or fails."""


class ModelNotFound(EncoderError):
    """No model has this name."""


class WeightsNotFound(EncoderError):
    """The model is known, but its weights are neither local nor to be had from the hub."""


class WeightsMismatch(EncoderError):
    """A weights file lacks a tensor, holds one too many or one of another shape."""


class MediaError(PerceptionSearchError):
    """One media file cannot be used.

    Attributes:
        outcome: one word, as in `IngestReport` (`unreadable`, `too_large`, `timed_out`, ...).
        reason: one plain sentence.
    """

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class QueryError(PerceptionSearchError):
    """A query or a filter cannot be answered as it stands."""


class ExportError(PerceptionSearchError):
    """Hits cannot be written in the form, or to the place, that was asked for."""


class DownloadError(PerceptionSearchError):
    """A file could not be fetched, or is not the one that was promised."""


class MissingExtra(PerceptionSearchError):
    """An optional package is needed; the message names the extra that brings it."""


class LicenceNotAccepted(PerceptionSearchError):
    """A model may be used only by who accepts its licence; the message says how."""
