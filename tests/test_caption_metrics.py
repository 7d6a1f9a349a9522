"""Measures of captions and answers against values worked out by hand, or the slow way."""

import itertools
import json
import math
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from perception_search.caption_metrics import (
    frame_ious,
    grouped_accuracy,
    is_right_option,
    mean_recall,
    shared_words,
    soda_c,
)

ROOT = Path(__file__).parent.parent
PARITY = ROOT / ".venv-parity/bin/python"


def test_the_first_word_names_the_option():
    for right in ("(A) a dog", "A", "a.", "(a)", "Answer: A", "answer: (a) a dog"):
        assert is_right_option(right, "A"), right
    for wrong in ("(B) a dog", "B", "", "the dog", "answer: b"):
        assert not is_right_option(wrong, "A"), wrong


def test_a_group_is_right_only_if_all_of_it_is():
    assert grouped_accuracy([True, True, True, False], ["x", "y", "x", "z"]) == 2 / 3
    assert grouped_accuracy([True, False], ["x", "x"]) == 0


def test_the_iou_of_frames_is_overlap_over_the_lesser_of_hull_and_lengths():
    windows = [[0, 10], [10, 0], [5, 15], [20, 30], [4, 4]]
    got = frame_ious(windows, [[0, 10]])[:, 0]
    assert got == pytest.approx([1, 1, 1 / 3, 0, 0], abs=1e-8)
    assert got[0] < 1, "1e-8 is added to the union"


def test_recall_is_the_share_of_thresholds_that_are_exceeded():
    assert [mean_recall(iou) for iou in (0.3, 0.31, 0.71, 0.95)] == [0, 0.25, 0.75, 1]


def slow_soda(worth):
    """Every way to pair without crossing, one after the other."""
    n, m = worth.shape
    best = 0.0
    for size in range(min(n, m) + 1):
        for rows in itertools.combinations(range(n), size):
            for columns in itertools.combinations(range(m), size):
                best = max(best, sum(worth[i, j] for i, j in zip(rows, columns, strict=True)))
    precision, recall = best / m, best / n
    return 2 * precision * recall / (precision + recall) if best else 0.0


@pytest.mark.parametrize("seed", range(20))
def test_soda_pairs_without_crossing(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 6, size=2)
    scores, ious = rng.random(shape).round(1), rng.random(shape)
    assert soda_c(scores, ious) == pytest.approx(slow_soda(scores * ious))


def test_soda_of_a_story_told_backwards_is_that_of_half_of_it():
    assert soda_c([[0, 1], [1, 0]], np.ones((2, 2))) == 0.5
    assert soda_c([[1, 0], [0, 1]], np.ones((2, 2))) == 1
    assert soda_c([[], []], [[], []]) == 0


def test_shared_words_are_counted_once_each():
    assert shared_words("A dog, a cat", "a dog") == pytest.approx(2 * 2 / 6)
    assert shared_words("a", "b") == 0


def slow_cider(candidates, references):
    """CIDEr-D by its definition: n-grams up to 4, weighed by rarity, clipped, short of 6 words."""

    def grams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    total = 0.0
    for n in range(1, 5):
        held = Counter(g for some in references for g in {g for t in some for g in grams(t, n)})

        def weighed(text, n=n, held=held):
            log_n = math.log(len(references))
            return {
                g: count * (log_n - math.log(max(1, held[g])))
                for g, count in grams(text, n).items()
            }

        for text, some in zip(candidates, references, strict=True):
            ours = weighed(text)
            for truth in some:
                theirs = weighed(truth)
                shared = sum(min(v, theirs[g]) * theirs[g] for g, v in ours.items() if g in theirs)
                norms = math.hypot(*ours.values(), 0) * math.hypot(*theirs.values(), 0)
                away = len(text.split()) - len(truth.split())
                value = shared / norms if norms else 0.0
                total += value * math.exp(-(away**2) / 72) / len(some)
    return 10 * total / 4 / len(candidates)


@pytest.mark.skipif(not PARITY.exists(), reason="make parity-env brings pycocoevalcap")
def test_cider_is_what_its_definition_says():
    candidates = ["a dog runs on the grass", "two cats sleep", "a red bus on a street"]
    references = [
        ["a dog is running on the grass", "the dog runs"],
        ["cats asleep on a sofa", "two cats sleep on the sofa"],
        ["a red bus drives down a street"],
    ]
    code = (
        "import json, sys; from perception_search.caption_metrics import cider; "
        "print(json.dumps(cider(*json.loads(sys.argv[1]), tokenizer='words')))"
    )
    done = subprocess.run(
        [PARITY, "-c", code, json.dumps([candidates, references])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    value, how = json.loads(done.stdout.splitlines()[-1])
    assert how == "words"
    assert value == pytest.approx(slow_cider(candidates, references), abs=1e-6)
