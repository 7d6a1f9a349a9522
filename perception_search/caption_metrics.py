"""Measures of captions and answers, in plain NumPy: PLM-VideoBench's, and CIDEr; knows no file.

PLM-VideoBench: Cho et al., *PerceptionLM: Open-Access Data and Models for Detailed Visual
Understanding* (arXiv:2504.13180), as lmms-eval scores it. Shares are fractions of 1.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_search.errors import MissingExtra

Judge: TypeAlias = Callable[[str, str], float]
"""How well a prediction says what the truth says, 0 to 1: (truth, prediction) to a score."""

RECALL_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
"""Of the IoU, each to be exceeded, over which PLM-VideoBench averages its recall."""

_WORD = re.compile(r"\w+")


def is_right_option(prediction: str, letter: str) -> bool:
    """Whether an answer names the option, as PLM-VideoBench's FGQA takes it.

    The first word counts, without full stops: it must lie within `(a)`, or hold it. An `answer:`
    before it is passed over.

    Args:
        prediction: what the model wrote.
        letter: of the right option.
    """
    text = prediction.lower()
    if "answer:" in text:
        text = text.replace("answer:", "").strip()
    first = text.split(" ")[0]
    option = f"({letter.lower()})"
    return bool(first) and (first.replace(".", "") in option or option in first)


def grouped_accuracy(are_right: Sequence[bool], groups: Sequence[str]) -> float:
    """The share of groups all of whose members are right (PLM-VideoBench's MBAcc).

    Args:
        are_right: one a question, at least one.
        groups: of each question the name of its group.
    """
    right: dict[str, bool] = {}
    for is_right, group in zip(are_right, groups, strict=True):
        right[group] = right.get(group, True) and is_right
    return float(np.mean(list(right.values())))


def frame_ious(windows: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """IoU (N, M) of windows of frames (N, 2) with others (M, 2), as PLM-VideoBench takes it.

    The union is the hull, or the sum of both lengths where that is less, plus 1e-8; so two equal
    windows have a little less than 1, and one of no length has 0 with everything. The ends of a
    window may stand in either order.
    """
    a = np.sort(np.asarray(windows, np.float64).reshape(-1, 2), axis=1)[:, None]  # (N, 1, 2)
    b = np.sort(np.asarray(others, np.float64).reshape(-1, 2), axis=1)[None]  # (1, M, 2)
    shared = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    lengths = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0])
    ious: NDArray[np.float64] = np.maximum(shared, 0) / (np.minimum(hull, lengths) + 1e-8)
    return ious


def mean_recall(iou: float) -> float:
    """The share of the thresholds 0.3, 0.5, 0.7 and 0.9 that one window's IoU exceeds: RTLoc's."""
    return float(np.mean([iou > threshold for threshold in RECALL_THRESHOLDS]))


def soda_c(scores: ArrayLike, ious: ArrayLike) -> float:
    """How well a list of captioned windows tells the story of another: SODA_c.

    Truths and predictions are paired so that the order of both is kept and the sum over pairs of
    score times IoU is largest; the F1 of that sum over the number of predictions and over that of
    truths. Source: Fujita et al., *SODA: Story Oriented Dense Video Captioning Evaluation
    Framework* (ECCV 2020), with a judge's scores in METEOR's place, as PLM-VideoBench has it.

    Args:
        scores: (N, M) of every truth with every prediction, 0 to 1.
        ious: (N, M) the same of their windows.

    Returns:
        0 where there is no prediction.
    """
    worth = np.asarray(scores, np.float64) * np.asarray(ious, np.float64)
    if not worth.size:
        return 0.0
    num_true, num_predicted = worth.shape
    best = np.zeros((num_true + 1, num_predicted + 1))
    for i in range(num_true):
        for j in range(num_predicted):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + worth[i, j])
    total = best[-1, -1]
    precision, recall = total / num_predicted, total / num_true
    return float(2 * precision * recall / (precision + recall)) if total > 0 else 0.0


def shared_words(truth: str, prediction: str) -> float:
    """F1 of the words that two texts share, in lower case: a judge that understands nothing.

    It stands in where no model judges; figures by it compare with no published one.
    """
    left = _WORD.findall(truth.lower())
    right = _WORD.findall(prediction.lower())
    shared = sum(min(left.count(word), right.count(word)) for word in set(left))
    return 2 * shared / (len(left) + len(right)) if shared else 0.0


Tokenizer: TypeAlias = Literal["ptb", "words"]


def cider(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: Tokenizer | None = None,
) -> tuple[float, Tokenizer]:
    """CIDEr-D of captions by pycocoevalcap, and how the words were told apart.

    Source: Vedantam et al., *CIDEr: Consensus-based Image Description Evaluation* (CVPR 2015). The
    weight of a word comes from the references given: figures compare over the same pictures only.

    Args:
        candidates: (N,) captions, N >= 2: of a single picture no word has any weight.
        references: (N,) each with at least one.
        tokenizer: `ptb` is that of published figures, a Java program; `words` takes letters and
            digits in lower case. None for the first where there is Java.

    Raises:
        MissingExtra: pycocoevalcap is not installed.
        ValueError: there are fewer than two captions, or a picture without a reference.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "CIDEr is computed by pycocoevalcap (100 MB): pip install 'perception-search[cider]'"
        ) from error

    if len(candidates) < 2 or len(candidates) != len(references) or not all(references):
        raise ValueError("CIDEr takes two captions or more, each with a reference")
    how: Tokenizer = tokenizer or ("ptb" if shutil.which("java") else "words")
    numbered = {n: [text] for n, text in enumerate(candidates)}
    truths = {n: list(texts) for n, texts in enumerate(references)}
    score, _ = Cider().compute_score(_split(truths, how), _split(numbered, how))
    return float(score), how


def _split(texts: Mapping[int, Sequence[str]], tokenizer: Tokenizer) -> dict[int, list[str]]:
    """The same with words between spaces."""
    if tokenizer == "words":
        return {n: [" ".join(_WORD.findall(t.lower())) for t in some] for n, some in texts.items()}
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    given: Any = {n: [{"caption": text} for text in some] for n, some in texts.items()}
    split: dict[int, list[str]] = PTBTokenizer().tokenize(given)
    return split
