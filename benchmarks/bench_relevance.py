"""How well a cut-off tells queries that have an answer from those that have none.

    PERCEPTION_SEARCH_DATA=... python benchmarks/bench_relevance.py --work coco345.ps

Captions of COCO photographs (`coco345` in PERCEPTION_SEARCH_DATA) are asked twice: as things are,
and with their right pictures taken out. Right are first a caption's own picture alone, then also
every picture whose captions share an uncommon word with it (of at least four letters, in the
captions of at most 12 % of the pictures). An error is a query that finds nothing although its
pictures are there, or something although they are not.

Four scores of the best hit are compared: the cosine, as a fixed threshold sees it; the cosine in
deviations from the query's mean over the collection; QB-Norm's; and QB-Norm's in such deviations,
which is what `relevance` uses. How sharp QB-Norm's soft mean is, and which of all, is chosen on
four fifths of the pictures and measured on the fifth, five times. The last line is one JSON object.
"""

import argparse
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
from processes import machine

from perception_search import Collection, relevance
from perception_search.evaluate.captions import find_media, load_captions
from perception_search.evaluate.embeddings import take_in, whole_rows
from perception_search.searcher import Searcher
from perception_search.zero_shot import KS

SHARPNESS = (0.5, 1.0, 1.5, 2.0, 3.0, 6.0)
RATES = (0.05, 0.1, 0.2, 0.3, 0.5)
NUM_FOLDS = 5
COMMON_SHARE, SHORTEST_WORD = 0.12, 4


def words_of(text):
    return set(re.findall("[a-z]+", text.lower()))


def own_alone(owner, num_media):
    """(captions, media): a caption's own picture."""
    return owner[:, None] == np.arange(num_media)


def sharing_a_word(texts, owner, num_media):
    """(captions, media): its own picture and those whose captions share an uncommon word."""
    of_media = [set() for _ in range(num_media)]
    for text, one in zip(texts, owner, strict=True):
        of_media[one] |= words_of(text)
    counts = Counter(word for some in of_media for word in some)
    usable = {
        word
        for word, count in counts.items()
        if count <= COMMON_SHARE * num_media and len(word) >= SHORTEST_WORD
    }
    shared = [[bool(words_of(text) & usable & some) for some in of_media] for text in texts]
    return np.array(shared) | own_alone(owner, num_media)


def equal_error(present, absent):
    """The error rate at the threshold where both errors are equally frequent."""
    thresholds = np.unique(np.concatenate([present, absent]))
    rejects = np.searchsorted(np.sort(present), thresholds) / len(present)
    accepts = 1 - np.searchsorted(np.sort(absent), thresholds) / len(absent)
    place = np.argmin(np.abs(rejects - accepts))
    return float(rejects[place] + accepts[place]) / 2


def best(scores, taken_out):
    """Of each caption the best score with all pictures, and with its right ones taken out."""
    return scores.max(axis=1), np.where(taken_out, -np.inf, scores).max(axis=1)


def in_deviations(scores):
    return (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)


def scores_by_name(cosines, bank):
    """Every score (captions, media) that is compared, by name."""
    found = {"cosine": cosines, "cosine, in deviations": in_deviations(cosines)}
    for sharpness in SHARPNESS:
        soft = relevance.soft_means(bank.T, sharpness / bank.std())
        found[f"QB-Norm {sharpness:g}"] = cosines - soft
        found[f"QB-Norm {sharpness:g}, in deviations"] = in_deviations(cosines - soft)
    return found


def chosen_by_folds(scores, taken_out, owner):
    """What four fifths choose, and the error on the fifth: of the choice, and of the cosine."""
    fold = np.random.default_rng(0).integers(0, NUM_FOLDS, owner.max() + 1)[owner]
    pairs = {name: best(some, taken_out) for name, some in scores.items()}
    choices, errors, of_cosine = [], [], []
    for number in range(NUM_FOLDS):
        inside = fold != number

        def error(name, where):
            return equal_error(*(some[where] for some in pairs[name]))

        choice = min(pairs, key=lambda name: error(name, inside))
        choices.append(choice)
        errors.append(error(choice, ~inside))
        of_cosine.append(error("cosine", ~inside))
    return {
        "chosen": dict(Counter(choices)),
        "error_held_out": float(np.mean(errors)),
        "error_of_cosine_held_out": float(np.mean(of_cosine)),
    }


def rates(collection, texts, media_rows, taken_out):
    """Both errors of the library's own relevance at several rates, by its own judge."""
    searcher = Searcher(
        collection.path, "auto", lambda new: collection.encoder_for("text").encode_text(new)
    )
    judge = searcher.judge(collection.snapshot)
    rows = collection.snapshot.rows
    normalised = texts @ rows.embeddings(media_rows).T - judge.bank_scores(rows.row_id[media_rows])
    present, absent = (judge.shares(texts, some) for some in best(normalised, taken_out))
    return {
        f"{rate:g}": {
            "false_rejects": float(np.mean(present < 1 - rate)),
            "false_accepts": float(np.mean(absent >= 1 - rate)),
        }
        for rate in RATES
    }, judge


def recalls(scores, owner):
    own = scores[np.arange(len(owner)), owner]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    return {f"recall@{k}": float(np.mean(ranks <= k)) for k in KS}


def measured(collection, folder):
    """All figures of a collection that holds the pictures, or takes them in now."""
    captions = load_captions(folder / "captions.json")
    found = find_media(captions.names, folder / "images")
    paths = [found[name] for name in captions.names]
    take_in(collection, paths)
    rows = whole_rows(collection.snapshot, paths)
    owner = np.array(captions.owner)
    media = collection.snapshot.rows.embeddings(rows)
    texts = np.stack([some for _, some in collection.query_encoder().texts(captions.texts)])
    taken_out = {
        "own picture": own_alone(owner, len(rows)),
        "every picture with a word in common": sharing_a_word(captions.texts, owner, len(rows)),
    }
    of_rates = {}
    for name, some in taken_out.items():
        of_rates[name], judge = rates(collection, texts, rows, some)
    scores = scores_by_name(texts @ media.T, judge.bank @ media.T)
    usual = f"QB-Norm {relevance.SHARPNESS:g}"
    shown = ("cosine", "cosine, in deviations", usual, f"{usual}, in deviations")
    figures = {"machine": machine(), "model": collection.identity.model, "num_captions": len(texts)}
    for name, some in taken_out.items():
        present, absent = best(scores["cosine"], some)
        figures[name] = {
            "taken_out_on_average": float(some.sum(axis=1).mean()),
            "equal_error": {one: equal_error(*best(scores[one], some)) for one in shown},
            "least_possible_of_cosine": float(np.mean(present == absent)) / 2,
            "cross_validated": chosen_by_folds(scores, some, owner),
            "at_rate": of_rates[name],
        }
    figures["recall"] = {one: recalls(scores[one], owner) for one in (shown[0], shown[2])}
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("coco345.ps"))
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    folder = Path(os.environ["PERCEPTION_SEARCH_DATA"]) / "coco345"
    if options.work.exists():
        collection = Collection.open(options.work)
    else:
        collection = Collection.create(options.work, model=options.model)
    figures = measured(collection, folder)
    for name, some in figures.items():
        if not isinstance(some, dict) or "equal_error" not in some:
            continue
        print(f"taken out: {name}, {some['taken_out_on_average']:.0f} on average")
        for score, error in some["equal_error"].items():
            print(f"  {score:32} equal error {100 * error:.1f} %")
        least = 100 * some["least_possible_of_cosine"]
        print(f"  no threshold on cosines does better than {least:.1f} %")
        chosen = some["cross_validated"]
        print(
            f"  chosen by cross-validation: {chosen['chosen']}; held out "
            f"{100 * chosen['error_held_out']:.1f} %, cosine "
            f"{100 * chosen['error_of_cosine_held_out']:.1f} %"
        )
        for rate, errors in some["at_rate"].items():
            print(
                f"  --false-alarms {rate:4}  false accepts {100 * errors['false_accepts']:.1f} %, "
                f"false rejects {100 * errors['false_rejects']:.1f} %"
            )
    for score, some in figures["recall"].items():
        print(score, {name: f"{100 * share:.1f} %" for name, share in some.items()})
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
