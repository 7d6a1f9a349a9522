"""Decoded frames and sound become H.264 and AAC in an MP4 file, to the frame and the sample.

Knows no source file: frames come with their times, upright they leave.
"""

from fractions import Fraction
from typing import IO, Any

import av

from perception_search.video_sampling import EPSILON_SECONDS

_CRF = "18"  # hard to tell from the source
_PRESET = "fast"
_LOOKAHEAD = "20"  # frames that x264 keeps in memory, of any size
_TICKS = Fraction(1, 90_000)
_SOUND_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
_AAC_SAMPLES = 1024
_MAX_SOUNDS = 8
_TURNS: dict[int, list[tuple[str, str]]] = {
    90: [("transpose", "cclock")],
    180: [("hflip", ""), ("vflip", "")],
    270: [("transpose", "clock")],
}


class Encoder:
    """One file that is written, from one moment to another.

    Attributes:
        note: what is to be known of the file; empty mostly.
        first_seconds: the time of the first frame; None before it came.
    """

    def __init__(
        self,
        out: IO[bytes],
        pictures: Any,
        sounds: list[Any],
        first_seconds: float,
        after_seconds: float,
        num_threads: int,
    ) -> None:
        """Writes nothing yet.

        Args:
            out: open for writing, seekable.
            pictures: the stream that the frames are of.
            sounds: the streams that the sounds are of.
            first_seconds: where the file begins, by the clock of the frames.
            after_seconds: the first moment after it.
            num_threads: for the encoder.
        """
        self.note = ""
        self.first_seconds: float | None = None
        self._out = out
        self._first, self._after = first_seconds, after_seconds
        self._num_threads = num_threads
        self._rate = pictures.average_rate or pictures.guessed_rate or Fraction(25)
        self._time_base = pictures.time_base
        self._aspect = pictures.sample_aspect_ratio
        self._sounds = {sound.index: _Sound(sound) for sound in sounds[:_MAX_SOUNDS]}
        if len(sounds) > _MAX_SOUNDS:
            self.note = f"the first {_MAX_SOUNDS} of its {len(sounds)} sounds are kept"
        self._output: Any = None
        self._stream: Any = None
        self._graph: Any = None
        self._shape: tuple[Any, ...] = ()
        self._waiting: tuple[Any, float] | None = None
        self._last_tick = -1
        self._durations: dict[int, int] = {}
        self._have_pictures_ended = False
        self._end_seconds: float | None = None

    @property
    def is_full(self) -> bool:
        """Whether nothing more is wanted."""
        ended = [sound.has_ended for sound in self._sounds.values()]
        return self._have_pictures_ended and all(ended)

    def add_picture(self, frame: Any, seconds: float) -> None:
        """A frame; those before the first moment are passed over, but the last of them."""
        if self._have_pictures_ended:
            return
        if self._waiting is not None:
            shown, since = self._waiting
            if seconds > self._first + EPSILON_SECONDS or seconds >= self._after:
                self._encode(shown, since, seconds)
        self._waiting = (frame, seconds)
        if seconds >= self._after - 1e-6:
            self._have_pictures_ended = True
            self._waiting = None

    def add_sound(self, stream_index: int, frame: Any, seconds: float) -> None:
        """A piece of sound."""
        sound = self._sounds.get(stream_index)
        if sound is not None:
            sound.add(frame, seconds, self._first, self._after)
            if self._output is not None:
                self._mux_sounds()

    def finish(self) -> float | None:
        """Completes the file; the first moment after it, or None if there is nothing in it."""
        if self._waiting is not None:
            shown, since = self._waiting
            lasts = float((shown.duration or 0) * self._time_base)
            self._encode(shown, since, since + (lasts or 1 / float(self._rate)))
            self._waiting = None
        if self._output is None:
            return None
        for sound in self._sounds.values():
            sound.finish()
        self._mux_sounds()
        for packet in self._stream.encode():
            self._mux_picture(packet)
        self._output.close()
        return self._end_seconds

    def _encode(self, frame: Any, since: float, until: float) -> None:
        """One frame that stands from one moment to another."""
        until = min(until, self._after)
        if since <= self._first + EPSILON_SECONDS:
            since = self._first
        tick = round((since - self._first) / _TICKS)
        until_tick = round((until - self._first) / _TICKS)
        if tick <= self._last_tick or until_tick <= tick:  # a time that another frame has
            return
        if self.first_seconds is None:
            self.first_seconds = since
        for picture in self._upright(frame):
            if self._output is None:
                self._open(picture)
            picture.pts, picture.time_base = tick, _TICKS
            picture.pict_type = 0
            self._durations[tick] = until_tick - tick
            self._last_tick = tick
            for packet in self._stream.encode(picture):
                self._mux_picture(packet)
        self._end_seconds = until

    def _upright(self, frame: Any) -> list[Any]:
        """The frame as a player shows it, in the one size that the file has."""
        shape = (frame.width, frame.height, frame.format.name, frame.rotation)
        if shape != self._shape:
            self._shape = shape
            even = ("pad", "iw+mod(iw\\,2):ih+mod(ih\\,2)")  # as H.264 wants it
            filters = [*_TURNS.get(frame.rotation % 360, []), even, ("format", "yuv420p")]
            if self._stream is not None:  # a frame of another size than the first
                filters.append(("scale", f"{self._stream.width}:{self._stream.height}"))
            self._graph = av.filter.Graph()
            source = self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=_TICKS
            )
            _link(self._graph, source, filters, "buffersink")
        frame.pts = None
        self._graph.vpush(frame)
        return [self._graph.vpull()]

    def _open(self, picture: Any) -> None:
        # no faststart: it would read the file again, which only a name allows
        self._output = av.open(self._out, "w", format="mp4")
        stream = self._output.add_stream("libx264", rate=self._rate)
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
        context = stream.codec_context
        context.time_base = _TICKS
        context.thread_count = self._num_threads
        context.max_b_frames = 0  # frames in the order of showing: the last one ends the file
        context.options = {"crf": _CRF, "preset": _PRESET, "rc-lookahead": _LOOKAHEAD}
        for name in ("color_range", "color_primaries", "color_trc", "colorspace"):
            if isinstance(value := getattr(picture, name, None), int):
                setattr(context, name, value)
        turned = self._shape[3] % 180 == 90
        if self._aspect:
            context.sample_aspect_ratio = 1 / self._aspect if turned else self._aspect
        self._stream = stream
        for sound in self._sounds.values():
            sound.open(self._output)

    def _mux_picture(self, packet: Any) -> None:
        ticks = round(packet.pts * packet.time_base / _TICKS)
        duration = self._durations.pop(ticks, None)
        if duration is not None:
            packet.duration = round(duration * _TICKS / packet.time_base)
        self._output.mux(packet)

    def _mux_sounds(self) -> None:
        for sound in self._sounds.values():
            for packet in sound.packets():
                self._output.mux(packet)


class _Sound:
    """One stream of sound, cut to the sample; a gap is filled with silence."""

    def __init__(self, source: Any) -> None:
        context = source.codec_context
        rate = context.sample_rate or 48000
        self._rate = min(_SOUND_RATES, key=lambda known: abs(known - rate))
        self._layout = "mono" if context.channels == 1 else "stereo"
        self._language = source.metadata.get("language")
        self._graph: Any = None
        self._shape: tuple[Any, ...] = ()
        self._stream: Any = None
        self._frames: list[Any] = []
        self._is_finished = False
        self.has_ended = False

    def open(self, output: Any) -> None:
        self._stream = output.add_stream("aac", rate=self._rate, layout=self._layout)
        self._stream.codec_context.bit_rate = 96_000 if self._layout == "mono" else 192_000
        if self._language:
            self._stream.metadata["language"] = self._language

    def add(self, frame: Any, seconds: float, first: float, after: float) -> None:
        """A decoded piece that begins at a moment."""
        if self.has_ended or seconds >= after:
            self.has_ended = True
            return
        if seconds + frame.samples / frame.sample_rate <= first:
            return
        shape = (frame.sample_rate, frame.format.name, frame.layout.name)
        if self._graph is None:
            self._shape = shape
            self._graph = self._filters(frame, after - first)
        if shape != self._shape:  # a broken piece; those of the first kind go on
            return
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = round((seconds - first) * frame.sample_rate)
        self._graph.push(frame)
        self._pull()

    def _filters(self, frame: Any, seconds: float) -> Any:
        graph = av.filter.Graph()
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format,
            layout=frame.layout,
            time_base=Fraction(1, frame.sample_rate),
        )
        filters = [
            ("atrim", f"start=0:end={seconds:.6f}"),
            ("aresample", f"{self._rate}:async=1:first_pts=0"),  # with silence where nothing is
            ("aformat", f"sample_fmts=fltp:channel_layouts={self._layout}"),
            ("asetnsamples", f"n={_AAC_SAMPLES}:p=0"),
        ]
        _link(graph, source, filters, "abuffersink")
        return graph

    def _pull(self) -> None:
        while True:
            try:
                self._frames.append(self._graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    def finish(self) -> None:
        """No more comes."""
        if self._graph is not None:
            self._graph.push(None)
            self._pull()
        self._is_finished = True

    def packets(self) -> list[Any]:
        """What is encoded by now; after `finish`, all the rest."""
        frames, self._frames = self._frames, []
        encoded = [packet for frame in frames for packet in self._stream.encode(frame)]
        if self._is_finished:
            encoded += self._stream.encode(None)
        return encoded


def _link(graph: Any, source: Any, filters: list[tuple[str, str]], sink: str) -> None:
    nodes = [graph.add(name, args or None) for name, args in filters]
    graph.link_nodes(source, *nodes, graph.add(sink)).configure()
