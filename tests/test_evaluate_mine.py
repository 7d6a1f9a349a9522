"""A library judged by its owner's queries: files, names, ranks."""

import json

import pytest
from fakes import ColourEncoder
from media_folder import write_pictures

from perception_search import Collection, search
from perception_search.errors import QueryError
from perception_search.evaluate.mine import evaluate_mine, read_queries


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    collection = Collection.create(folder / "c.ps", encoder=ColourEncoder())
    collection.ingest(write_pictures(folder / "media", 60))
    return collection


def saved(path, *lines):
    path.write_text("\n".join(["query,path", *lines]))
    return path


def test_a_query_may_have_several_right_answers(tmp_path):
    file = saved(tmp_path / "q.csv", "red,a.jpg", '"a dog, wet",b/c.jpg', "red,d.jpg", ",x", "y,")
    assert read_queries(file) == {"red": ["a.jpg", "d.jpg"], "a dog, wet": ["b/c.jpg"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("words,file\nred,a.jpg", "has the columns words, file; query and path are needed"),
        ("query,path\n", "holds no query with a path"),
        ("", "has the columns ; query and path are needed"),
    ],
)
def test_what_is_no_list_of_queries_is_told(tmp_path, content, said):
    file = tmp_path / "q.csv"
    file.write_text(content)
    with pytest.raises(QueryError, match=said):
        read_queries(file)
    with pytest.raises(QueryError, match="cannot be read"):
        read_queries(tmp_path / "nowhere.csv")


def test_figures_are_those_of_the_ranks(made):
    words = ["red", "green", "blue", "dark"]
    right, ranks = {}, [1, 4, 8, 30]
    for word, rank in zip(words, ranks, strict=True):
        right[word] = [str(made.search(word, k=30)[rank - 1].path)]
    report = evaluate_mine(made, right)
    assert report.index is None
    assert list(report.figures) == ["exact"]
    figures = report.figures["exact"]
    assert [figures[f"recall@{k}"] for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert figures["mrr@10"] == pytest.approx((1 + 1 / 4 + 1 / 8) / 4)
    assert report.missed == {"dark": str(made.search("dark", k=1)[0].path)}
    both = evaluate_mine(made, {"dark": [*right["dark"], str(made.search("dark", k=2)[1].path)]})
    assert both.figures["exact"]["mrr@10"] == 0.5


def test_an_index_stands_beside(made, monkeypatch):
    monkeypatch.setattr(search, "SCAN_IF_FEWER_ROWS", 0)
    made.index("hnsw")
    best = {word: [str(made.search(word, k=1)[0].path)] for word in ("red", "green")}
    report = evaluate_mine(made, best)
    made.index("exact")
    assert report.index == "hnsw"
    assert report.figures["exact"]["recall@1"] == 1
    assert report.figures["indexed"]["recall@10"] == 1
    assert "| recall@1 | 100.0 [100.0, 100.0] | " in report.table()


def test_a_path_may_be_the_end_of_one(made, tmp_path, run):
    path = made.search("red", k=1)[0].path
    for name in (path.name, "/".join(path.parts[-2:]), str(path)):
        assert evaluate_mine(made, {"red": [name]}).figures["exact"]["recall@1"] == 1
    with pytest.raises(QueryError, match=r"1 right answers are not in .*: nothing.jpg"):
        evaluate_mine(made, {"red": ["nothing.jpg", path.name]})
    other = tmp_path / "elsewhere" / path.name
    other.parent.mkdir()
    other.write_bytes(b"".join([made.search("green", k=1)[0].path.read_bytes()]))
    copies = Collection.create(tmp_path / "c.ps", encoder=ColourEncoder())
    copies.ingest([path, other])
    with pytest.raises(QueryError, match="2 items are called"):
        evaluate_mine(copies, {"red": [path.name]})


def test_the_command_says_what_is_wrong(made, tmp_path, run):
    file = saved(tmp_path / "q.csv", "red,no-such.jpg")
    code, out, err = run("eval", "mine", made.path, file)
    assert (code, out) == (1, "")
    assert "1 right answers are not in" in err
    assert json.dumps(
        evaluate_mine(made, {"red": [str(made.search("red", k=1)[0].path)]}).as_dict()
    )
