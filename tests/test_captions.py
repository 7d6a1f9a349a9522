"""Captions: stored, replaced, resumed, kept through kills; found by words, by vectors, by both."""

import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, write_pictures, write_video
from PIL import Image
from stops import stopping_after
from stores import caption, flipped, item, make, remove_pictures, row

from perception_search import Collection, manifest
from perception_search.caption_files import read_csv, read_side_files
from perception_search.caption_words import FOLDER, CaptionWords
from perception_search.captioning import GivenCaption, caption_items, take_in
from perception_search.errors import MediaError, QueryError
from perception_search.named_items import NamedItems
from perception_search.page import render
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.verify import verify
from perception_search.writer import Writer

PARITY = Path(__file__).parent.parent / ".venv-parity/bin/python"

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


class Scripted:
    """A captioner that says what a file is called."""

    model = "scripted"
    licence = "CC0-1.0"

    def __init__(self, stop_after=math.inf):
        self.asked = []
        self.stop_after = stop_after

    def caption(self, path, prompt):
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(path.stem)
        if path.stem == "broken":
            raise MediaError("unreadable", "there is no picture in it")
        return f" {prompt} {path.stem} "


def texts(folder):
    snapshot = Snapshot.open(folder)
    captions = snapshot.captions_of(snapshot.live_items["content_hash"].to_pylist())
    return sorted(one.text for some in captions.values() for one in some)


# What is stored


def test_the_last_captions_of_an_item_count_and_merging_drops_the_others(tmp_path):
    folder = make(tmp_path / "c.ps", 2, captions=True)
    with Writer(folder) as writer:
        first = [caption("a dog", "m", "l", "what?"), caption("grass", "m", "l", "what?", 1.0, 2.0)]
        writer.add_captions(f"{0:064x}", first)
        writer.commit()
        writer.add_captions(f"{0:064x}", [caption("a cat", "n", "l")])
        writer.commit()
    snapshot = Snapshot.open(folder)
    assert len(snapshot.manifest.of("captions")) == 3
    assert snapshot.captions_of([f"{n:064x}" for n in range(3)]) == {
        f"{0:064x}": [caption("a cat", "n", "l")],
        f"{1:064x}": [caption("picture 1")],
    }
    with Writer(folder) as writer:
        writer.compact()
    [file] = Snapshot.open(folder).manifest.of("captions")
    assert file.num_rows == 2
    assert texts(folder) == ["a cat", "picture 1"]
    assert verify(folder) == []


def test_a_collection_without_captions_is_as_it_was_and_one_from_before_takes_them(tmp_path):
    folder = make(tmp_path / "c.ps", 2)
    (folder / "captions").rmdir()  # as a collection was made before there were any
    state = manifest.read(folder)
    assert "caption" not in state.encode().decode()
    assert Snapshot.open(folder).captions.num_rows == 0
    assert verify(folder) == []
    with Writer(folder) as writer:
        writer.add_captions(f"{1:064x}", [caption("a dog")])
        writer.commit()
        writer.compact()
        writer.collect_garbage()
    assert texts(folder) == ["a dog"]
    assert manifest.read(folder).collection == state.collection


def test_captions_of_nothing_and_captions_of_no_item_are_refused_and_told(tmp_path):
    folder = make(tmp_path / "c.ps", 1)
    with Writer(folder) as writer:
        for wrong in ([], [caption(" ")]):
            with pytest.raises(ValueError, match="without words"):
                writer.add_captions(f"{0:064x}", wrong)
        writer.add_captions("f" * 64, [caption("nobody's")])
        writer.commit()
    [damage] = verify(folder)
    assert damage.problem == "it holds captions of no item"


# How they come in


def test_a_model_captions_what_is_new_and_leaves_alone_what_people_wrote(tmp_path):
    folder = make(tmp_path / "c.ps", 3)
    done, shown = [], []
    with Writer(folder) as writer:
        take_in(writer, [GivenCaption("1.jpg", "mine")])
        captioner = Scripted()
        report = caption_items(
            writer, captioner, "see", on_commit=done.extend, on_progress=lambda *n: shown.append(n)
        )
        assert report.counts() == {"captioned": 2, "unchanged": 0, "own": 1, "failed": 0}
        assert captioner.asked == ["0", "2"]
        assert shown == [(1, 2), (2, 2)]
        assert [(str(file.path), file.outcome, file.reason) for file in done] == [
            ("/photos/0.jpg", "captioned", "see 0"),
            ("/photos/2.jpg", "captioned", "see 2"),
        ]
        assert caption_items(writer, Scripted(), "see").counts()["unchanged"] == 2
    make(folder, 1, first=3)
    with Writer(folder) as writer:
        again = Scripted()
        assert caption_items(writer, again, "see").captioned == 1
        assert again.asked == ["3"], "a new file is captioned on the next run"
        assert caption_items(writer, Scripted(), "look", where="width > 101").captioned == 2
        assert texts(folder) == ["look 2", "look 3", "mine", "see 0"]
        assert caption_items(writer, Scripted(), "look", replace_own=True).captioned == 2
    assert texts(folder) == ["look 0", "look 1", "look 2", "look 3"]


def test_ctrl_c_keeps_what_was_done_and_a_bad_file_is_a_line(tmp_path):
    folder = make(tmp_path / "c.ps", 4)
    with Writer(folder) as writer:
        writer.add_item(item(9), [row(9)])
        writer.add_path(Path("/photos/broken.jpg"), PathRecord(1, 2, 3, f"{9:064x}", "ingested"))
        writer.commit()
    with Writer(folder) as writer, pytest.raises(KeyboardInterrupt):
        caption_items(writer, Scripted(stop_after=2), "see")
    assert texts(folder) == ["see 0", "see 1"]
    with Writer(folder) as writer:
        report = caption_items(writer, Scripted(), "see")
    assert report.counts() == {"captioned": 2, "unchanged": 2, "own": 0, "failed": 1}
    [failure] = report.failed
    assert (failure.path.name, failure.outcome) == ("broken.jpg", "unreadable")


def test_a_stop_at_every_third_durable_operation_keeps_every_caption_that_was_told(tmp_path):
    number = 0
    stopped = True
    while stopped:
        folder = make(tmp_path / f"{number}.ps", 3)
        told = []
        with stopping_after(number) as stop, Writer(folder) as writer:
            caption_items(writer, Scripted(), "see", on_commit=told.extend, commit_seconds=0)
        stopped = stop.stopped
        assert {file.reason for file in told} <= set(texts(folder))
        with Writer(folder) as writer:
            assert caption_items(writer, Scripted(), "see").failed == []
        assert texts(folder) == ["see 0", "see 1", "see 2"]
        assert verify(folder) == []
        shutil.rmtree(folder)
        number += 3
    assert number >= 30, "three commits have at least that many operations"


KILLED = """
import sys, pathlib
sys.path.insert(0, {tests!r})
from test_captions import Scripted
from perception_search.captioning import caption_items
from perception_search.writer import Writer
def told(files):
    for file in files: print(file.reason, flush=True)
with Writer(pathlib.Path(sys.argv[1])) as writer:
    caption_items(writer, Scripted(), "see", on_commit=told, commit_seconds=0)
print("done", flush=True)
"""


def test_captioning_goes_on_after_a_kill(tmp_path):
    folder = make(tmp_path / "c.ps", 60)
    told = Counter()
    code = KILLED.format(tests=str(Path(__file__).parent))
    for after in (1, 7, math.inf):
        command = [sys.executable, "-c", code, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for number, line in enumerate(child.stdout, 1):
                told[line.strip()] += 1
                if number >= after:
                    os.kill(child.pid, signal.SIGKILL)
                    break
        assert set(told) - {"done"} <= set(texts(folder))
    assert told["done"] == 1
    assert texts(folder) == sorted(f"see {n}" for n in range(60))
    assert max(told.values()) == 1, "nothing that was told was captioned again"


def test_a_table_of_captions_is_taken_in_by_whatever_name(tmp_path, monkeypatch):
    folder = make(tmp_path / "c.ps", 3)
    table = tmp_path / "captions.csv"
    table.write_text(
        "path,caption,model,licence,start_seconds,end_seconds\n"
        "/photos/0.jpg,a dog,,,,\n"
        '1.jpg,"a cat, asleep",some-model,CC-BY-4.0,,\n'
        "photos/1.jpg,on grass,some-model,CC-BY-4.0,2,4.5\n"
        "9.jpg,nobody,,,,\n2.jpg, ,,,,\n2.jpg,bad,,,5,2\n2.jpg,bad,,,x,2\n"
    )
    with Writer(folder) as writer:
        report = take_in(writer, read_csv(table))
        assert report.counts() == {"captioned": 2, "unchanged": 0, "own": 0, "failed": 4}
        outcomes = sorted((str(file.path), file.outcome) for file in report.failed)
        assert outcomes == [
            ("2.jpg", "bad_times"), ("2.jpg", "bad_times"), ("2.jpg", "no_caption"),
            ("9.jpg", "unknown"),
        ]  # fmt: skip
        assert take_in(writer, read_csv(table)).counts()["unchanged"] == 2
    captions = Snapshot.open(folder).captions_of([f"{n:064x}" for n in range(3)])
    found = {h: [one[:3] + one[4:] for one in some] for h, some in captions.items()}
    assert found == {
        f"{0:064x}": [("a dog", "own", "own", None, None, None)],
        f"{1:064x}": [
            ("a cat, asleep", "some-model", "CC-BY-4.0", None, None, None),
            ("on grass", "some-model", "CC-BY-4.0", None, 2.0, 4.5),
        ],
    }
    table.write_text("file,caption\n")
    with pytest.raises(QueryError, match="has the columns file, caption; path and caption are"):
        list(read_csv(table))


def test_the_text_beside_a_picture_is_its_caption(tmp_path):
    for name, text in {"a.txt": "a dog\n", "b.txt": None, "c.txt": b"\xff"}.items():
        if text is not None:
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = list(read_side_files(tmp_path / f"{name}.jpg" for name in "abc"))
    assert found[0] == GivenCaption(str(tmp_path / "a.jpg"), "a dog\n")
    assert [one.outcome for one in found[1:]] == ["unreadable"]


def test_an_item_is_known_by_the_end_of_its_path_unless_several_are(tmp_path):
    folder = make(tmp_path / "c.ps", 2)
    with Writer(folder) as writer:
        for number, name in enumerate(("/a/x.jpg", "/b/x.jpg")):
            record = PathRecord(1, 2, 3, f"{number:064x}", "ingested")
            writer.add_path(Path(name), record)
        writer.commit()
    items = NamedItems(Snapshot.open(folder))
    assert items.find("b/x.jpg") == f"{1:064x}"
    with pytest.raises(QueryError, match=r"2 items are called x\.jpg"):
        items.find("x.jpg")
    with pytest.raises(QueryError, match=r"y\.jpg is not in"):
        items.find("y.jpg")


# How they are found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three pictures of one colour each, one without a caption, and a video."""
    folder = tmp_path_factory.mktemp("captioned")
    (folder / "media").mkdir()
    for name, rgb in COLOURS.items():
        Image.fromarray(colour(rgb)).save(folder / "media" / f"{name}.png")
    Image.fromarray(colour((120, 120, 120))).save(folder / "media" / "grey.png")
    write_video(folder / "media" / "film.mp4", [colour((200, 30, 30), (64, 64))] * 60)
    photos = Collection.create(folder / "c.ps", encoder=ColourEncoder())
    photos.ingest(folder / "media")
    given = [
        GivenCaption("red.png", "Two dogs running over the bridge", "PLM", "noncommercial"),
        GivenCaption("green.png", "a dog"),
        GivenCaption("blue.png", "red letters on a wall"),
        GivenCaption("film.mp4", "a bridge", start_seconds=1.0, end_seconds=3.0),
        GivenCaption("film.mp4", "titles", start_seconds=4.0, end_seconds=5.0),
    ]
    with Writer(photos.path) as writer:
        assert take_in(writer, given).captioned == 4
    return photos


def names(hits):
    return [hit.path.stem for hit in hits]


def test_words_find_captions_by_their_stems_without_a_model(photos):
    without_a_model = Collection.open(photos.path)
    dogs = without_a_model.search("the dog runs", by="words")
    assert names(dogs) == ["red", "green"]
    assert without_a_model.search("zebra", by="words") == []
    assert without_a_model.search("the", by="words") == []
    [film] = without_a_model.search("bridges", by="words", where="kind = 'video'")
    assert (film.start_seconds, film.end_seconds, film.best_seconds) == (1.0, 3.0, 2.0)
    assert film.caption == "a bridge"
    [title] = without_a_model.search("titles", by="words")
    assert (title.start_seconds, title.caption) == (4.0, "titles")
    best = dogs[0].score
    assert names(without_a_model.search("the dog runs", by="words", min_score=best)) == ["red"]


def test_bm25_is_what_its_formula_says(photos):
    """Lucene's: idf = ln(1 + (N - n + .5) / (n + .5)), times tf / (tf + k1 (1 - b + b l))."""
    snapshot = photos.snapshot
    words = [["two", "dog", "run", "over", "bridg"], ["dog"], ["red", "letter", "wall"], ["bridg"]]
    words.append(["titl"])
    mean = np.mean([len(some) for some in words])
    for word in ("dog", "bridg"):
        n = sum(word in some for some in words)
        idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
        expected = {
            text: idf / (1 + 1.5 * (0.25 + 0.75 * len(some) / mean)) if word in some else 0
            for text, some in zip(
                ["Two dogs running over the bridge", "a dog", "red letters on a wall", "a bridge",
                 "titles"], words, strict=True)
        }  # fmt: skip
        scores = CaptionWords(snapshot).scores(word).tolist()
        got = dict(zip(snapshot.captions["text"].to_pylist(), scores, strict=True))
        assert got == pytest.approx(expected, abs=1e-6)


def test_captions_are_found_by_their_embeddings(photos):
    hits = photos.search("red", by="captions")
    assert len(hits) == 4, "items without captions are not found"
    scores = [hit.score for hit in hits]
    assert hits[0].path.stem == "blue", "its caption says red"
    embed = ColourEncoder().encode_text
    assert scores[0] == pytest.approx(float(embed(["red"])[0] @ embed([hits[0].caption])[0]))
    assert scores == sorted(scores, reverse=True)
    encoder = ColourEncoder()
    again = Collection.open(photos.path, encoder=encoder)
    assert again.search("red", by="captions") == hits
    assert encoder.num_texts == 0, "captions are embedded once"


def slow_fusion(photos, query, k, where=None):
    """Reciprocal rank fusion, the obvious way."""
    scores = Counter()
    for by in ("vectors", "words"):
        for rank, hit in enumerate(photos.search(query, k=100, where=where, by=by), 1):
            scores[hit.path] += 1 / (60 + rank)
    return dict(scores.most_common(k))


@pytest.mark.parametrize("query", ["red dogs", "blue bridge", "green wall", "zebra"])
@pytest.mark.parametrize("where", [None, "kind = 'image'"])
def test_hybrid_is_reciprocal_rank_fusion(photos, query, where):
    hits = photos.search(query, k=3, by="hybrid", where=where)
    expected = slow_fusion(photos, query, 5, where)
    got = {hit.path: hit.score * 2 / 61 for hit in hits}
    assert got == pytest.approx({path: expected[path] for path in got})
    assert sorted(got.values()) == pytest.approx(sorted(expected.values(), reverse=True)[:3][::-1])
    for hit in hits:
        ranks = [rank for rank in (hit.vector_rank, hit.word_rank) if rank is not None]
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks) * 61 / 2)
    [many, _] = photos.search_many([query, "x"], k=3, by="hybrid", where=where)
    assert many == hits


def test_hybrid_keeps_the_moment_of_vectors_and_the_caption_of_words(photos):
    hit = next(h for h in photos.search("red titles", by="hybrid") if h.path.stem == "film")
    plain = next(h for h in photos.search("red titles") if h.path.stem == "film")
    assert (hit.start_seconds, hit.end_seconds) == (plain.start_seconds, plain.end_seconds)
    assert hit.caption == "titles"
    assert plain.caption == "a bridge", "of several, the one that shares most time"


def test_every_hit_has_its_caption_with_model_and_licence(photos):
    for hits in (photos.search("red"), photos.search("red", moments=True)):
        assert {hit.path.stem: hit.caption for hit in hits}.get("grey") is None
        assert all(hit.caption for hit in hits if hit.path.stem != "grey")
    [red] = [hit for hit in photos.search("red") if hit.path.stem == "red"]
    assert (red.caption_model, red.caption_licence) == ("PLM", "noncommercial")
    page = render([("red", [red])], title="t", model="m", notice=None, thumbnail=lambda *_: b"jpeg")
    assert "Two dogs running over the bridge (PLM, noncommercial)" in page


def test_what_captions_cannot_do_is_said(photos, tmp_path):
    with pytest.raises(QueryError, match="items, not moments of videos"):
        photos.search("red", by="hybrid", moments=True)
    with pytest.raises(QueryError, match="told of vectors alone"):
        photos.search("red", by="hybrid", relevant=0.05)
    with pytest.raises(QueryError, match="give words"):
        photos.search(images=[Image.new("RGB", (8, 8))], by="hybrid")
    with pytest.raises(QueryError, match="searched by words alone"):
        photos.search("red", minus=["dark"], by="words")
    with pytest.raises(ValueError, match="it must be one of vectors, words, captions, hybrid"):
        photos.search("red", by="colour")
    with pytest.raises(QueryError, match=r"holds no captions\. Take in your own with"):
        Collection.open(make(tmp_path / "c.ps", 1)).search("red", by="words")


def test_removed_items_are_not_found_by_their_captions_and_come_back_with_them(tmp_path):
    folder = make(tmp_path / "c.ps", 3, captions=True)
    photos = Collection.open(folder)
    assert len(photos.search("picture", by="words")) == 3
    remove_pictures(folder, [1])
    assert names(photos.search("picture", by="words")) == ["0", "2"]
    assert photos.info()["captions"] == [
        {"model": "own", "prompt": None, "licence": "own", "items": 2, "captions": 2}
    ]
    with Writer(folder) as writer:
        record = PathRecord(1, 2, 3, f"{1:064x}", "ingested")
        writer.add_path(Path("/photos/1.jpg"), record)
        writer.commit()
    assert len(photos.search("picture", by="words")) == 3


def test_the_index_of_words_is_made_once_and_again_where_it_is_damaged(tmp_path, monkeypatch):
    import bm25s

    built = []
    build = bm25s.BM25.index
    monkeypatch.setattr(bm25s.BM25, "index", lambda *a, **k: built.append(1) or build(*a, **k))
    folder = make(tmp_path / "c.ps", 5, captions=True)
    expected = Collection.open(folder).search("3", by="words")
    assert names(expected) == ["3"]
    assert Collection.open(folder).search("3", by="words") == expected
    assert len(built) == 1
    files = sorted(p for p in (folder / FOLDER).rglob("*") if p.is_file())
    for number, victim in enumerate(files, 2):
        flipped(victim)
        assert Collection.open(folder).search("3", by="words") == expected
        assert len(built) == number
    make(folder, 1, first=5, captions=True)
    assert names(Collection.open(folder).search("5", by="words")) == ["5"]
    assert len(list((folder / FOLDER).iterdir())) == 1
    with Writer(make(tmp_path / "stop.ps", 1)) as writer:
        writer.add_captions(f"{0:064x}", [caption("the")])
        writer.commit()
    assert Collection.open(tmp_path / "stop.ps").search("the", by="words") == []


# The command


def test_the_command_takes_captions_in_and_search_shows_them(run, tmp_path):
    media = write_pictures(tmp_path / "media", 3)
    first, *_ = files = sorted(p for p in media.rglob("*") if p.is_file())
    path = tmp_path / "photos.ps"
    Collection.create(path, encoder=ColourEncoder()).ingest(media)
    table = tmp_path / "captions.csv"
    table.write_text(f"path,caption\n{first.name},Ein Hund\nnowhere.jpg,a cat\n")
    code, out, err = run("caption", path, "--from-csv", table)
    assert (code, out) == (0, "1 captioned, 1 failed\n")
    assert "unknown: nowhere.jpg: nowhere.jpg is not in" in err
    for file in files:
        file.with_suffix(".txt").write_text(f"a dog called {file.stem}")
    code, out, _ = run("caption", path, "--from-txt", "--json")
    *lines, counts = map(json.loads, out.splitlines())
    assert code == 0
    assert counts == {"captioned": 3, "unchanged": 0, "own": 0, "failed": 0}
    assert {line["caption"] for line in lines} == {f"a dog called {f.stem}" for f in files}
    assert "captions    3, of 3 of 3 items, by own; licence: own" in run("info", path)[1]
    code, out, _ = run("search", path, f"called {first.stem}", "--by", "words", "-k", 1)
    assert re.fullmatch(rf"\d\.\d+  {first}  a dog called {first.stem}\n", out)
    code, out, _ = run("search", path, "dog", "--by", "words", "--json")
    assert {json.loads(line)["caption_licence"] for line in out.splitlines()} == {"own"}
    code, _, err = run("search", path, "dog", "--by", "words", "--moments")
    assert code == 1
    assert err == (
        "captions find items, not moments of videos: leave out either the captions (by, --hybrid) "
        "or the moments.\n"
    )
    assert run("caption", path)[0] == 2


def test_stored_captions_are_scored_where_the_library_for_it_is(run, photos, tmp_path):
    truths = [
        {"file": "green.png", "captions": ["a dog", "one dog"]},
        {"file": "blue.png", "caption": "letters on a wall"},
        {"file": "nowhere.png", "caption": "a cat"},
    ]
    file = tmp_path / "truths.json"
    file.write_text(json.dumps(truths))
    command = ("eval", "cider", photos.path, "--references", file)
    if importlib.util.find_spec("pycocoevalcap") is None:
        code, _, err = run(*command)
        assert code == 1
        assert "pip install 'perception-search[cider]'" in err
    if not PARITY.exists():
        pytest.skip("make parity-env brings pycocoevalcap")
    done = subprocess.run(
        [PARITY, "-m", "perception_search", *map(str, command), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PARITY.parent.parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["num_captions"], report["num_without"]) == (2, 1)
    assert 0 < report["cider"] < 10
