"""CLIP's byte-pair encoding: texts -> rows of token ids; knows no tensors.

The vocabulary is the one OpenAI released with CLIP (bpe_simple_vocab_16e6.txt.gz, MIT licence).
"""

import gzip
import html
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search.errors import PerceptionSearchWarning

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LongTexts: TypeAlias = Literal["cut", "split"]

START_OF_TEXT = 49406
END_OF_TEXT = 49407
_NUM_MERGES = 48894
_WORDS = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class TruncatedTextWarning(PerceptionSearchWarning):
    """A text has more tokens than the model reads; the rest does not count."""


def tokenize(texts: Sequence[str], context_length: int) -> NDArray[np.int64]:
    """Token ids (N, context_length): start, the text, end, then zeros.

    A longer text is cut, with a TruncatedTextWarning that says by how much. What stands in a text
    is only ever text: `<end_of_text>` gives the tokens of its letters, not the end token.

    Args:
        texts: any strings; case, white space and HTML entities do not matter.
        context_length: of the model, start and end included.

    Raises:
        TypeError: `texts` is one string instead of a sequence of them.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts is one string, {texts[:40]!r}; pass a list of strings")
    rows = np.zeros((len(texts), context_length), np.int64)
    room = context_length - 2
    dropped: list[int] = []
    for row, encoding in zip(rows, _bpe().encode_batch([clean(t) for t in texts]), strict=True):
        ids = encoding.ids
        if len(ids) > room:
            dropped.append(len(ids) - room)
        row[0] = START_OF_TEXT
        row[1 : 1 + len(ids[:room])] = ids[:room]
        row[1 + len(ids[:room])] = END_OF_TEXT
    if dropped:
        warnings.warn(
            f"{len(dropped)} of {len(texts)} texts are longer than the {room} tokens this model "
            f"reads; up to {max(dropped)} tokens at the end do not count: make the texts shorter, "
            "or have long ones split",
            TruncatedTextWarning,
            stacklevel=3,
        )
    return rows


def split(text: str, context_length: int) -> list[str]:
    """The text in pieces that a row of `context_length` tokens holds; together all its words.

    Pieces end between words; only a word that is longer than a row is cut, into halves until they
    fit. A text that fits, an empty one too, is one piece.
    """
    room = context_length - 2
    pieces: list[list[str]] = [[]]
    num_tokens = 0
    for word, length in _measured(clean(text).split(), room):
        if pieces[-1] and num_tokens + length > room:
            pieces.append([])
            num_tokens = 0
        pieces[-1].append(word)
        num_tokens += length
    return [" ".join(piece) for piece in pieces]


def _measured(words: Sequence[str], room: int) -> Iterator[tuple[str, int]]:
    """Words with their numbers of tokens, those of more than `room` in halves of halves.

    White space always ends a token, so the tokens of words are the tokens of the text.
    """
    for word, encoding in zip(words, _bpe().encode_batch(list(words)), strict=True):
        if len(encoding.ids) <= room or len(word) == 1:
            yield word, len(encoding.ids)
        else:
            half = len(word) // 2
            yield from _measured([word[:half], word[half:]], room)


def clean(text: str) -> str:
    """The text as the model was trained on it: mended, unescaped, lower case, single spaces."""
    if not text.isascii() or not text.isprintable() or "&" in text:
        import ftfy  # leaves other texts as they are, and takes longer to import than to run

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@cache
def _bpe() -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    packed = resources.files(__package__).joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    pairs = (line.split() for line in lines[1 : 1 + _NUM_MERGES])  # line 0 is a header
    merges = [(first, second) for first, second in pairs]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in visible]  # the other bytes have symbols from 256 on
    symbols += [chr(256 + i) for i in range(256 - len(visible))]
    words = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    words += [first + second for first, second in merges]
    bpe = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, merges, end_of_word_suffix="</w>")
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe
