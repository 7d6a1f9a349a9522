"""Words, pictures and videos become one unit vector to look for; searches nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.protocol import Encoder, encode_to_average
from perception_search.errors import MediaError, QueryError
from perception_search.frames import Sampling, prepare_image
from perception_search.media import display
from perception_search.scoring import Target
from perception_search.text_cache import TextCache

if TYPE_CHECKING:
    from PIL import Image

    Picture: TypeAlias = "str | Path | Image.Image"

Part: TypeAlias = tuple[float, NDArray[np.float32]]


class QueryEncoder:
    """Embeds the parts of queries with a collection's encoder, words through its cache."""

    def __init__(
        self, cache: TextCache, sampling: Sampling, encoder_for: Callable[[str], Encoder]
    ) -> None:
        self._cache = cache
        self._sampling = sampling
        self._encoder_for = encoder_for

    def targets(
        self,
        queries: "Sequence[str | None]",
        *,
        texts: "Sequence[str | tuple[float, str]]" = (),
        images: "Sequence[Picture | tuple[float, Picture]]" = (),
        videos: "Sequence[str | Path | tuple[float, str | Path]]" = (),
        minus: "Sequence[str | tuple[float, str]]" = (),
        words_only: bool = False,
    ) -> list[Target]:
        """What to look for, one for each of `queries`, each together with all other parts.

        Args:
            queries: words; None where the other parts are all.
            texts: more words.
            images: pictures.
            videos: videos.
            minus: words whose depiction is unwanted.
            words_only: nothing is embedded: the embeddings have the shape (0,).

        Raises:
            QueryError: a text is empty, there is nothing to look for, or the parts cancel.
        """
        more = [text for _, text in map(weigh, texts)]
        words = [" ".join([*([query] if query else []), *more]) for query in queries]
        if words_only:
            if images or videos or minus or not all(text.strip() for text in words):
                raise QueryError(
                    "captions are searched by words alone; give words, no pictures, no videos and "
                    "nothing to take away."
                )
            return [Target(np.zeros(0, np.float32), (), text) for text in words]
        parts = [*self.texts(texts), *self.images(images), *self.videos(videos)]
        taken_away = self.texts(minus)
        asked = iter(self.texts([query for query in queries if query is not None]))
        return [
            Target(mix([*([next(asked)] if query is not None else []), *parts]), taken_away, text)
            for query, text in zip(queries, words, strict=True)
        ]

    def texts(self, texts: "Sequence[str | tuple[float, str]]") -> list[Part]:
        """Weight and unit embedding of each; the text tower is loaded for new words only.

        Raises:
            QueryError: one is empty.
        """
        weighted = [weigh(text) for text in texts]
        for _, text in weighted:
            if not text.strip():
                raise QueryError("a query is empty; write what a picture should show.")
        if not weighted:
            return []
        embeddings = self._cache.encode(
            [text for _, text in weighted],
            lambda new: self._encoder_for("text").encode_text(new),
        )
        weights = [weight for weight, _ in weighted]
        return list(zip(weights, embeddings, strict=True))

    def images(self, images: "Sequence[Picture | tuple[float, Picture]]") -> list[Part]:
        """Weight and unit embedding of each; files and Pillow images alike."""
        return [(weight, self._image(image)) for weight, image in map(weigh, images)]

    def videos(self, videos: "Sequence[str | Path | tuple[float, str | Path]]") -> list[Part]:
        """Weight and unit embedding of each: the mean over its time grid."""
        return [(weight, self._file(video)) for weight, video in map(weigh, videos)]

    def _image(self, image: "Picture") -> NDArray[np.float32]:
        if isinstance(image, str | Path):
            return self._file(image)
        encoder = self._encoder_for("vision")
        pixels = prepare_image(image, encoder.frame_spec)
        return mix([(1.0, encoder.encode_frames(pixels[None])[0])])

    def _file(self, path: str | Path) -> NDArray[np.float32]:
        from perception_search.decode import decode_file

        if not Path(path).expanduser().exists():
            raise FileNotFoundError(f"{display(path)} does not exist; name a picture or a video")
        encoder = self._encoder_for("vision")
        try:
            _, frames = decode_file(Path(path).expanduser(), encoder.frame_spec, self._sampling)
        except MediaError as error:
            raise MediaError(error.outcome, f"{display(path)}: {error.reason}") from error
        embeddings = encode_to_average(encoder, frames.pixels[frames.on_grid])
        return mix([(1.0, frame) for frame in embeddings])


def weigh(part: Any) -> tuple[float, Any]:
    """A part with its weight, which is 1 where none was given.

    Raises:
        QueryError: the weight is not above 0.
    """
    weight, what = part if isinstance(part, tuple) else (1.0, part)
    if not (np.isfinite(weight) and weight > 0):
        raise QueryError(f"a weight of {weight:g}; it must be above 0 (use minus to take away)")
    return float(weight), what


def mix(parts: Sequence[Part]) -> NDArray[np.float32]:
    """The unit vector (dim,) float32 of the weighted sum.

    Raises:
        QueryError: there is nothing to add, or the parts cancel each other.
    """
    if not parts:
        raise QueryError("there is nothing to look for; give words, a picture or a video.")
    total = np.sum([weight * vector.astype(np.float64) for weight, vector in parts], axis=0)
    length = np.linalg.norm(total)
    if not (np.isfinite(length) and length > 1e-9):
        raise QueryError("the parts of the query cancel each other; give fewer, or other weights.")
    mixed: NDArray[np.float32] = (total / length).astype(np.float32)
    return mixed
