"""Neighbours that vote: by the slow way, with an index, and what is refused."""

import json

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, picture
from PIL import Image

from perception_search import Collection
from perception_search.errors import QueryError
from perception_search.evaluate.knn import _voted, evaluate_knn, labels_of

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sixty pictures, a folder for each of three colours; a tenth lie in a wrong one."""
    folder = tmp_path_factory.mktemp("knn")
    for number in range(60):
        name = list(COLOURS)[number % 3]
        rgb = COLOURS[name] if number % 10 else COLOURS["red"]
        pixels = np.clip(colour(rgb, (32, 32)) * 0.7 + picture(number, (32, 32)) * 0.3, 0, 255)
        path = folder / "media" / name / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    collection = Collection.create(folder / "c.ps", encoder=ColourEncoder())
    collection.ingest(folder / "media")
    return collection


def slowly(collection, label_of, k):
    """Each item's vote, one after the other."""
    rows = collection.snapshot.rows
    hashes = rows.content_hash.to_pylist()
    embeddings = rows.embeddings(np.arange(len(rows)))
    right = []
    for number, content_hash in enumerate(hashes):
        scores = {n: float(embeddings[n] @ embeddings[number]) for n in range(len(hashes))}
        del scores[number]
        near = sorted(scores, key=lambda n: -scores[n])[:k]
        votes = [label_of[hashes[n]] for n in near]
        most = max(votes.count(one) for one in votes)
        first = next(one for one in votes if votes.count(one) == most)
        right.append(first == label_of[content_hash])
    return float(np.mean(right))


@pytest.mark.parametrize("k", [1, 5, 59, 500])
def test_votes_are_those_of_the_slow_way(made, k):
    label_of = labels_of(made, "folder")
    report = evaluate_knn(made, label_of, k=k)
    assert (report.num_items, report.num_labels, report.index) == (60, 3, "exact")
    assert report.k == min(k, 59)
    expected = slowly(made, label_of, report.k)
    if k < 59:
        assert 0.5 < expected < 1
    assert report.figures["exact"]["acc1"] == pytest.approx(expected)
    assert report.figures["served"]["acc1"] == pytest.approx(expected)
    assert report.figures["served"]["neighbours"] == 1.0
    low, high = report.interval
    assert low <= expected <= high


def test_an_index_votes_too(made):
    made.index("hnsw")
    try:
        report = evaluate_knn(made, labels_of(made, "folder"), k=5)
        assert report.index == "hnsw"
        assert 0.5 < report.figures["served"]["neighbours"] <= 1
        assert "served by hnsw" in report.table()
    finally:
        made.index("exact")


def test_labels_of_a_file(made, run, tmp_path):
    media = made.path.parent / "media"
    file = tmp_path / "labels.csv"
    lines = [f"{path},{path.parent.name}" for path in sorted(media.rglob("*.png"))[:50]]
    file.write_text("path,label\n" + "\n".join(lines) + "\nnowhere.png,red\n")
    assert len(labels_of(made, str(file))) == 50
    (media / "labels.csv").write_text("path,label\nred/00.png,red\nred/03.png,red\n")
    assert len(labels_of(made, str(media / "labels.csv"))) == 2
    (media / "labels.csv").unlink()
    code, out, _ = run("eval", "knn", made.path, "--labels", file, "-k", 3, "--json")
    assert code == 0
    assert json.loads(out)["num_items"] == 50
    code, out, _ = run("eval", "knn", made.path, "--labels", "folder", "-k", 3)
    assert code == 0
    assert out.startswith("60 items of 3 labels, 3 neighbours; served by exact")
    file.write_text("path,name\na,b\n")
    with pytest.raises(QueryError, match="has the columns path, name; path and label are needed"):
        labels_of(made, str(file))
    file.write_text("path,label\nnowhere.png,red\n")
    with pytest.raises(QueryError, match="0 items have a label by"):
        labels_of(made, str(file))
    with pytest.raises(QueryError, match="neither a file nor a column of the items; those are"):
        labels_of(made, "species")


def test_most_votes_win_and_the_nearest_of_equals():
    assert _voted(np.array([2, 1, 1])) == 1
    assert _voted(np.array([2, 1])) == 2
    assert _voted(np.array([], np.int64)) == -1
