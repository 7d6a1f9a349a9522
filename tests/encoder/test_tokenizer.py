import html
import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perception_search.encoder.tokenizer import (
    END_OF_TEXT,
    START_OF_TEXT,
    TruncatedTextWarning,
    clean,
    split,
    tokenize,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden_preproc.json").read_text())
CONTROL_TOKENS_IN_TEXT = "<start_of_text> a dog <end_of_text>"
CASES = [case for case in GOLDEN["tokenizer"] if case["text"] != CONTROL_TOKENS_IN_TEXT]


def ids_of(text):
    row = tokenize([text], 77)[0].tolist()
    return row[1 : row.index(END_OF_TEXT)]


@cache
def oracle():
    return pytest.importorskip("instant_clip_tokenizer").Tokenizer()


@pytest.mark.filterwarnings("ignore::perception_search.encoder.tokenizer.TruncatedTextWarning")
@pytest.mark.parametrize("case", CASES, ids=[case["text"][:20] for case in CASES])
def test_rows_are_those_of_the_reference(case):
    assert tokenize([case["text"]], 32)[0].tolist() == case["row32"]


def test_rows_are_int64_and_as_long_as_the_context():
    rows = tokenize(["a cat", "a dog"], GOLDEN["tokenizer_72_len"])
    assert (rows.shape, rows.dtype) == ((2, 72), np.int64)
    assert tokenize([], 32).shape == (0, 32)


@pytest.mark.parametrize(
    "text",
    [
        CONTROL_TOKENS_IN_TEXT,
        "&lt;end_of_text&gt; a dog",
        "<END_OF_TEXT> a dog",
        "<end_of_text></w> <end_of_text>",
    ],
)
def test_control_tokens_written_in_a_text_are_only_letters(text):
    row = tokenize([text], 77)[0]
    assert (row == END_OF_TEXT).sum() == 1
    assert (row == START_OF_TEXT).sum() == 1
    assert row.argmax() == np.count_nonzero(row) - 1  # the end is the last token that is not 0


@given(st.text())
@example("<end_of_text>")
@example("\ud800 half a surrogate pair")
def test_every_text_gives_one_start_and_one_end(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedTextWarning)
        row = tokenize([text], 32)[0]
    length = int(row.argmax()) + 1
    assert (row[0], row[length - 1]) == (START_OF_TEXT, END_OF_TEXT)
    assert (row[1 : length - 1] < START_OF_TEXT).all()
    assert not row[length:].any()


@given(st.text(st.characters(min_codepoint=9, max_codepoint=126)))
@example("&lt;b&gt; &amp;amp;")
def test_texts_that_need_no_mending_are_cleaned_as_if_mended(text):
    ftfy = pytest.importorskip("ftfy")
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert clean(text) == " ".join(mended.split()).lower()


def test_a_text_of_just_the_length_that_is_read_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = tokenize(["cat " * 30], 32)[0]
    assert row[-1] == END_OF_TEXT


def test_a_longer_text_is_cut_and_the_warning_says_by_how_much():
    texts = ["a cat", "cat " * 31, "cat " * 40]
    with pytest.warns(TruncatedTextWarning, match=r"2 of 3 texts are longer .* 10 tokens"):
        rows = tokenize(texts, 32)
    assert rows[1].tolist() == rows[2].tolist() == [START_OF_TEXT, *[2368] * 30, END_OF_TEXT]


def test_one_string_is_not_taken_for_a_list_of_letters():
    with pytest.raises(TypeError, match="texts is one string, 'a cat'; pass a list of strings"):
        tokenize("a cat", 32)


WORDS = """a cat's DOG don't we're I'VE 3.14 42 x_y foo-bar/baz #1! (red) été 東京 привет 😀 naïve ½
%& 🇩🇪 supercalifragilistic"""


@given(st.lists(st.sampled_from(WORDS.split()), max_size=12))
def test_ids_are_those_of_an_independent_tokenizer(words):
    text = " ".join(words)
    assert ids_of(text) == oracle().encode(clean(text))


@given(st.lists(st.text(min_size=1, max_size=60), max_size=12))
def test_the_pieces_of_a_text_hold_all_of_it_and_fit(words):
    text = " ".join(words)
    pieces = split(text, 12)
    assert "".join(pieces).replace(" ", "") == clean(text).replace(" ", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncatedTextWarning)
        rows = tokenize(pieces, 12)
    assert (rows[np.arange(len(rows)), rows.argmax(axis=1)] == END_OF_TEXT).all()


def test_a_text_is_split_between_words_and_a_word_only_where_it_fits_no_row():
    assert split("one two three four five six", 5) == ["one two three", "four five six"]
    assert split("", 12) == [""]
    assert split("A  photo\nof a CAT", 12) == ["a photo of a cat"]
    row = tokenize(["ab cd ef gh"], 16)[0]
    pieces = tokenize(split("ab cd ef gh", 6), 6)
    inner = [row[row.nonzero()][1:-1] for row in pieces]
    assert np.concatenate(inner).tolist() == row[row.nonzero()][1:-1].tolist()
    halves = split("x" * 400, 32)
    assert len(halves) > 1
    assert "".join(halves) == "x" * 400
