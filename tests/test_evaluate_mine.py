"""A library judged by its owner's queries: files, names, ranks."""

import json
import sys

import pytest
from fakes import ColourEncoder
from media_folder import write_pictures
from PIL import Image

from perception_search import Collection, search
from perception_search.errors import QueryError
from perception_search.evaluate.mine import evaluate_mine, read_queries
from perception_search.own_encoder import OwnEncoder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))


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
    assert list(report.figures) == ["exact", "normalised"]
    figures = report.figures["exact"]
    assert [figures[f"recall@{k}"] for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert figures["mrr@10"] == pytest.approx((1 + 1 / 4 + 1 / 8) / 4)
    curve = report.curves["exact"]
    assert [curve[k - 1] for k in (1, 3, 4, 8, 29, 30, 100)] == [0.25, 0.25, 0.5, 0.75, 0.75, 1, 1]
    assert [(one.query, one.failing, one.rank) for one in report.failures] == [
        ("dark", "far off", 30),
        ("blue", "nearly", 8),
        ("green", "nearly", 4),
    ]
    assert [str(path) for path in report.failures[0].right] == right["dark"]
    assert [hit.row_id for hit in report.failures[0].hits] == [
        hit.row_id for hit in made.search("dark", k=10)
    ]
    assert "1 of 4 far off: no right answer among the first ten." in report.table()
    assert report.missed == {"dark": str(made.search("dark", k=1)[0].path)}
    both = evaluate_mine(made, {"dark": [*right["dark"], str(made.search("dark", k=2)[1].path)]})
    assert both.figures["exact"]["mrr@10"] == 0.5


def test_a_second_look_stands_beside(made, tmp_path, run, monkeypatch):
    first = [hit.path.name for hit in made.search("red", k=20)]

    class Judge:
        name, first_weight = "a judge", 1.0

        def scores(self, query, hits):
            return [9.0 if hit.path.name == first[12] else -9.0 for hit in hits]

    report = evaluate_mine(made, {"red": [first[12]]}, reranker=Judge(), depth=20)
    assert report.figures["exact"]["recall@10"] == 0
    assert report.figures["reranked"]["recall@1"] == 1
    short = evaluate_mine(made, {"red": [first[12]]}, reranker=Judge(), depth=10)
    assert short.figures["reranked"]["recall@10"] == 0, "it was not among those that were judged"
    own = OwnEncoder(made.path, ColourEncoder())
    monkeypatch.setattr(
        "perception_search.commands.evaluate.open_collection",
        lambda *_, **__: Collection(made.path, own),
    )
    monkeypatch.setattr(
        "perception_search.commands.reranking.language_model", lambda *_, **__: Judge()
    )
    file = saved(tmp_path / "q.csv", f"red,{first[12]}")
    code, out, err = run("eval", "mine", made.path, file, "--rerank", 20)
    assert code == 0, err
    assert "reranked" in out


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


def test_the_index_is_asked_however_few_rows_there_are(made, monkeypatch):
    made.index("IVF4,Flat", recall=0.01)  # looks at a quarter of the pictures
    try:
        words = ["red", "green", "blue", "dark", "bright"]
        second = {word: [str(made.search(word, k=8)[7].path)] for word in words}
        report = evaluate_mine(made, second)
    finally:
        made.index("exact")
    assert set(report.figures) == {"exact", "indexed", "normalised"}
    lost = [one for one in report.failures if one.failing == "lost by the index"]
    exact, indexed = (report.figures[way]["recall@10"] for way in ("exact", "indexed"))
    assert len(lost) == round(5 * (exact - indexed))


def test_one_picture_that_comes_first_for_many_is_named(made):
    first = made.search("red", k=1)[0]
    words = ["red", "red red", "so red"]
    assert {made.search(word, k=1)[0].row_id for word in words} == {first.row_id}
    other = str(made.search("red", k=3)[2].path)
    failures = evaluate_mine(made, {one: [other] for one in words}).failures
    assert {one.failing for one in failures} == {"taken by one"}
    failures = evaluate_mine(made, {one: [other] for one in words[:2]}).failures
    assert {one.failing for one in failures} == {"nearly"}


def test_drawings_and_a_page_show_what_came_instead(made, tmp_path, run, monkeypatch):
    monkeypatch.setattr(OwnEncoder, "for_tower", lambda *_: ColourEncoder())
    lines = []
    for word, rank in (("red", 1), ("green", 3), ("blue for $5 or $6", 20)):
        lines.append(f"{word},{made.search(word, k=30)[rank - 1].path}")
    file = saved(tmp_path / "q.csv", *lines)
    out, page = tmp_path / "results", tmp_path / "worst.html"
    code, said, err = run("eval", "mine", made.path, file, "--out", out, "--page", page)
    assert code == 0, err
    assert "| recall@1 | 33.3" in said
    names = {"recall", "nearly", "far-off"}
    drawn = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {one.name for one in out.iterdir()} == {"report.json", *drawn}
    for name in names:
        with Image.open(out / f"{name}.png") as image:
            assert min(image.size) > 150
        assert "<svg" in (out / f"{name}.svg").read_text()
    assert (out / "far-off.svg").read_text().count("<image") == 1 + 5
    report = json.loads((out / "report.json").read_text())
    assert [one["failing"] for one in report["failures"]] == ["far off", "nearly"]
    assert len(report["failures"][0]["hits"]) == 10
    text = page.read_text()
    assert text.count("<h2>") == 2
    assert text.count('class="frame right"') == 1, "only the third of green's answers is right"
    assert "blue for $5 or $6 (far off; " in text


def test_without_matplotlib_nothing_is_computed(made, tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("eval", "mine", made.path, tmp_path / "q.csv", "--out", tmp_path / "r")
    assert code == 1
    assert "pip install 'perception-search[plots]'" in err


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
