"""Packets of a video go into another file as they are, from a key frame on; decodes nothing."""

import math
from typing import IO, Any

import av

from perception_search.video_reader import in_seconds, stamp_seconds
from perception_search.video_sampling import EPSILON_SECONDS

BEYOND_SECONDS = 5.0
"""Sound may lie this far behind the pictures it belongs to in a file."""

_MAX_UNTIMED = 64  # packets that are held until one comes with a decoding time
_MP4_PICTURES = frozenset(("h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mpeg4"))
_MP4_SOUNDS = frozenset(("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "flac", "alac"))
_FORMATS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "avi": "avi", "wmv": "asf", "flv": "flv"}
_OWN = {"avi": "avi", "asf": "wmv", "flv": "flv"}


def extension_for(format_name: str, pictures: Any, sounds: list[Any]) -> str:
    """The kind of file that holds these streams as they are: `mp4` if it can, or what is nearest.

    Args:
        format_name: FFmpeg's name of the container they come from.
        pictures: the stream of them, of which a frame was decoded.
        sounds: the streams of them.
    """
    if format_name == "avi" and pictures.codec_context.has_b_frames:
        return "avi"  # which alone can leave out when a frame is shown
    names = {sound.codec_context.name for sound in sounds}
    if pictures.codec_context.name in _MP4_PICTURES and names <= _MP4_SOUNDS:
        return "mp4"
    if "mov" in format_name.split(","):  # ProRes or plain PCM, for one: editors want them there
        return "mov"
    return _OWN.get(format_name, "mkv")


def decoding_seconds(packet: Any, stream: Any) -> float | None:
    """When a packet is decoded, or shown where only that is known; None where nothing is."""
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else in_seconds(ticks, stream.time_base)


class Copier:
    """One file that packets go into; its times begin with the first frame to be shown.

    Attributes:
        is_full: whether nothing more is wanted.
    """

    def __init__(
        self,
        out: IO[bytes],
        extension: str,
        pictures: Any,
        sounds: list[Any],
        key_seconds: float,
        shown_seconds: float,
        after_seconds: float,
    ) -> None:
        """Opens the file.

        Args:
            out: open for writing, seekable.
            extension: from `extension_for`.
            pictures: the stream of the packets that show something.
            sounds: the streams of the others.
            key_seconds: the time of the frame to begin with.
            shown_seconds: the time of the first to be shown, where that is later.
            after_seconds: the first moment that is not wanted.

        Raises:
            FFmpegError, ValueError: such a file cannot hold them.
        """
        self.is_full = False
        self._key, self._after = key_seconds, after_seconds
        self._shown = shown_seconds
        self._output = av.open(out, "w", format=_FORMATS[extension])
        self._pictures = _Track(self._output, pictures, extension)
        self._pictures_index = pictures.index
        self._sounds = {sound.index: _Track(self._output, sound, extension) for sound in sounds}
        self._held: list[Any] = []  # shown after the end, maybe needed for what is shown before
        self._is_begun = False
        self._end_seconds: float | None = None
        self._latest_seconds = (
            -math.inf
        )  # when the last picture is shown, of those that were copied
        self._open_ends = {sound.index for sound in sounds} | {pictures.index}

    def add(self, packet: Any) -> None:
        """A packet of one of the streams, in the order of the file."""
        index = packet.stream.index
        stamp = stamp_seconds(packet, packet.stream.time_base)
        decoded = decoding_seconds(packet, packet.stream)
        if stamp is None or decoded is None:
            return
        if decoded >= self._after - 1e-6 and not self._fills_a_hole(index, stamp):
            self._open_ends.discard(index)
            self.is_full = not self._open_ends or decoded > self._after + BEYOND_SECONDS
            return
        if index in self._sounds:
            if self._shown - 1e-6 <= stamp < self._after:
                self._sounds[index].add(packet, self._shown)
        elif self._is_begun or (packet.is_keyframe and abs(stamp - self._key) < 1e-6):
            self._is_begun = True
            self._add_picture(packet, stamp)

    def _add_picture(self, packet: Any, stamp: float) -> None:
        if stamp < self._key - 1e-6:  # shown before the key frame, and needs what is before it
            return
        self._held.append(packet)
        is_wanted = stamp < self._after - EPSILON_SECONDS
        if not is_wanted and not self._fills_a_hole(packet.stream.index, stamp):
            return
        for waiting in self._held:
            start = stamp_seconds(waiting, waiting.stream.time_base) or 0.0
            end = start + float((waiting.duration or 0) * waiting.stream.time_base)
            self._latest_seconds = max(self._latest_seconds, start)
            self._end_seconds = max(self._end_seconds or end, end)
            self._pictures.add(waiting, self._shown)
        self._held.clear()

    def _fills_a_hole(self, index: int, stamp: float) -> bool:
        """Whether it is shown before a picture that was copied already, as needed for another."""
        return index == self._pictures_index and stamp < self._latest_seconds - 1e-6

    def finish(self) -> float | None:
        """Completes the file; the first moment after it, or None if the key frame did not come."""
        for track in (self._pictures, *self._sounds.values()):
            track.finish()
        self._output.close()
        return self._end_seconds


class _Track:
    """One stream of the file."""

    def __init__(self, output: Any, source: Any, extension: str) -> None:
        self._output = output
        self._source = source
        self._stream = output.add_stream_from_template(source, opaque=True)
        if source.codec_context.name == "hevc" and extension != "mkv":
            self._stream.codec_context.codec_tag = "hvc1"  # as Apple's players want it
        if language := source.metadata.get("language"):
            self._stream.metadata["language"] = language
        self._untimed: list[Any] = []
        self._last_dts: int | None = None

    def add(self, packet: Any, zero_seconds: float) -> None:
        zero = round(zero_seconds / self._source.time_base)
        if packet.pts is not None:
            packet.pts -= zero
        if packet.dts is not None:
            packet.dts -= zero
        self._untimed.append(packet)
        # Matroska tells no decoding times, and FFmpeg finds them some packets late
        if packet.dts is not None or len(self._untimed) > _MAX_UNTIMED:
            self._flush()

    def _flush(self) -> None:
        packets = list(self._untimed)
        self._untimed.clear()
        if not packets:
            return
        known = packets[-1].dts
        if known is None:
            known = min((packet.pts for packet in packets if packet.pts is not None), default=0)
        step = max(packets[-1].duration or 1, 1)
        for num_after, packet in zip(range(len(packets) - 1, -1, -1), packets, strict=True):
            if packet.dts is None:
                packet.dts = known - num_after * step
            if packet.pts is None:
                packet.pts = packet.dts
            if self._last_dts is not None and packet.dts <= self._last_dts:
                packet.dts = self._last_dts + 1
            packet.pts = max(packet.pts, packet.dts)
            self._last_dts = packet.dts
            packet.stream = self._stream
            self._output.mux(packet)

    def finish(self) -> None:
        self._flush()
