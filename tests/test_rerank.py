"""A second look at the best hits: it lifts what it knows, keeps its time, and costs nothing when
it fails.
"""

import json

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import write_pictures
from PIL import Image

from perception_search import Collection
from perception_search.commands import reranking
from perception_search.errors import MediaError
from perception_search.hits import Hit
from perception_search.rerank_encoder import EncoderReranker
from perception_search.reranking import rerank


class Judge:
    """Knows the answer; every hit takes it a second of a clock of its own."""

    name = "a judge"
    first_weight = 1.0

    def __init__(self, right, seconds=1.0):
        self.right = right
        self.seconds = seconds
        self.now = 0.0
        self.batches = []

    def clock(self):
        return self.now

    def scores(self, query, hits):
        self.batches.append(len(hits))
        self.now += self.seconds * len(hits)
        return [10.0 if hit.path.name == self.right else -10.0 for hit in hits]


def made(folder, count=30):
    return [Hit(n, folder / f"{n}.jpg", "image", 0.9 - n / 100) for n in range(count)]


def test_a_judge_that_knows_the_answer_brings_it_first(tmp_path):
    hits = made(tmp_path)
    judge = Judge("20.jpg")
    *_, last = rerank(hits, "a dog", judge, depth=25)
    assert last.hits[0].path.name == "20.jpg"
    assert last.hits[0].rerank_score == 10.0
    assert [hit.path.name for hit in last.hits[1:25]] == [
        f"{n}.jpg" for n in range(25) if n != 20
    ], "the others keep their order: their first scores decide"
    assert last.hits[25:] == hits[25:]
    assert last.num_judged == last.num_to_judge == 25


def test_the_first_hits_come_at_once_and_get_better(tmp_path):
    hits = made(tmp_path)
    judge = Judge("12.jpg")
    states = list(rerank(hits, "a dog", judge, depth=30, clock=judge.clock))
    assert states[0].hits == hits
    assert states[0].num_judged == 0
    places = [[hit.path.name for hit in state.hits].index("12.jpg") for state in states]
    assert places[0] == 12
    assert places[-1] == 0
    assert all(sorted(h.row_id for h in state.hits) == list(range(30)) for state in states)
    assert states[1].predicted_seconds == 30


@pytest.mark.parametrize("budget", [1.0, 5.0, 12.0, 20.0, 100.0])
def test_a_budget_is_kept(tmp_path, budget):
    judge = Judge("1.jpg")
    *_, last = rerank(
        made(tmp_path), "a dog", judge, depth=30, budget_seconds=budget, clock=judge.clock
    )
    assert judge.now <= budget * 1.1
    assert last.num_judged == min(30, int(budget)), "and used"
    assert judge.batches[0] == 1


def test_a_judge_that_fails_leaves_the_first_order(tmp_path):
    class Failing(Judge):
        def scores(self, query, hits):
            if self.batches:
                raise RuntimeError("CUDA out of memory\nmore lines")
            return super().scores(query, hits)

    hits = made(tmp_path)
    *_, last = rerank(hits, "a dog", Failing("0.jpg"))
    assert last.hits == hits
    assert last.problem == "a judge failed (CUDA out of memory): the first order stands"


def test_a_file_that_cannot_be_judged_keeps_its_place_behind(tmp_path):
    class Blind(Judge):
        def scores(self, query, hits):
            scores = super().scores(query, hits)
            bad = MediaError("unreadable", "it is not there any more")
            return [bad if hit.row_id == 0 else s for hit, s in zip(hits, scores, strict=True)]

    *_, last = rerank(made(tmp_path, 4), "a dog", Blind("2.jpg"))
    assert [hit.row_id for hit in last.hits] == [2, 1, 3, 0]
    assert [file.outcome for file in last.unusable] == ["unreadable"]


def test_what_makes_no_sense_is_refused(tmp_path):
    for how in ({"depth": 0}, {"budget_seconds": 0.0}):
        with pytest.raises(ValueError, match="above 0"):
            list(rerank(made(tmp_path), "a dog", Judge(""), **how))


# A larger encoder


@pytest.fixture
def photos(tmp_path):
    folder = write_pictures(tmp_path / "media", 12)
    collection = Collection.create(tmp_path / "c.ps", encoder=ColourEncoder())
    collection.ingest(folder)
    return collection


def test_a_larger_encoder_gives_its_own_order_and_keeps_its_rows(photos):
    larger = ColourEncoder(dim=48, seed=7)
    hits = photos.search("red", k=8)
    judge = EncoderReranker(photos.path, larger)
    *_, last = rerank(hits, "red", judge, depth=8)
    [asked] = larger.encode_text(["red"])
    expected = {}
    for hit in hits:
        pixels = np.asarray(Image.open(hit.path).convert("RGB").resize((16, 16), Image.BILINEAR))
        [raw] = larger.encode_frames(pixels.transpose(2, 0, 1)[None])
        expected[hit.path] = float(raw @ asked / np.linalg.norm(raw))
    best = sorted(expected, key=expected.get, reverse=True)
    assert [hit.path for hit in last.hits] == best
    scores = [hit.rerank_score for hit in last.hits]
    assert scores == pytest.approx([expected[path] for path in best], abs=1e-5)
    judge.close()
    num_frames = larger.num_frames
    again = EncoderReranker(photos.path, larger)
    *_, same = rerank(hits, "red", again, depth=8)
    assert [hit.path for hit in same.hits] == best
    assert larger.num_frames == num_frames, "the rows were kept"
    again.close()


# The command


def test_the_command_lifts_recall_to_what_the_judge_knows(photos, run, monkeypatch):
    names = [hit.path.name for hit in photos.search("red", k=12)]
    right = names[9]
    monkeypatch.setattr(reranking, "language_model", lambda *_, **__: Judge(right))
    # the collection's own encoder is no released one, so the command is given it
    monkeypatch.setattr(
        "perception_search.commands.ask.open_collection",
        lambda path, **_: Collection.open(path, encoder=ColourEncoder()),
    )
    plain = run("search", photos.path, "red", "-k", 3, "--json")
    assert [json.loads(line)["path"].split("/")[-1] for line in plain[1].splitlines()] == names[:3]
    code, out, err = run(
        "search", photos.path, "red", "-k", 3, "--rerank", 12, "--rerank-budget", "10s", "--json"
    )
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 3
    assert found[0]["path"].endswith(f"/{right}")
    assert found[0]["rerank_score"] == 10.0
    assert "judged 12 of 12 hits" in err
    code, _, err = run("search", photos.path, "red", "--rerank", 3, "--rerank-budget", "soon")
    assert code == 1
    assert "10s" in err
    code, _, err = run("search", photos.path, "--image", names[0], "--rerank", 3)
    assert code == 2
