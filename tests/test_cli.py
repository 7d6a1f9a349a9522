"""The command line: what it prints, where, how it ends; PE-Core-T16 with made-up weights."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
from media_folder import colour, picture, write_pictures, write_video
from PIL import Image
from stores import make
from synthetic import T16

from perception_search import Collection, cli

MODEL = T16.name


@pytest.fixture(scope="module")
def weights(tmp_path_factory, t16_files):
    folder = tmp_path_factory.mktemp("weights")
    os.link(t16_files["safetensors"], folder / f"{MODEL}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def environment(weights, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PERCEPTION_SEARCH_WEIGHTS", str(weights))
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights):
    """A collection of eight pictures and a video, and where those lie."""
    folder = tmp_path_factory.mktemp("made")
    media = write_pictures(folder / "media", 8)
    write_video(media / "clip.mp4", [colour((200, 30, 30), (64, 64))] * 60)
    (media / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (media / "notes.txt").write_text("words")
    path = folder / "photos.ps"
    Collection.create(path, model=MODEL, weights=weights).ingest(media)
    return path, media


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_search_prints_score_first_and_path_second(run, made):
    path, _ = made
    code, out, err = run("search", path, "red", "-k", 3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 3
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all("/media/" in line for line in lines)
    code, out, _ = run("search", path, "red", "--where", "kind = 'video'")
    assert "clip.mp4  00:00:" in out
    assert " – " in out


def test_search_json_is_one_hit_a_line(run, made):
    path, media = made
    code, out, _ = run("search", path, "red", "-k", 2, "--json")
    first, second = objects(out)
    assert code == 0
    assert set(first) == {
        "row_id", "path", "kind", "score", "start_seconds", "end_seconds", "best_seconds",
        "caption", "caption_model", "caption_licence", "vector_rank", "word_rank", "rerank_score",
        "relevance",
    }  # fmt: skip
    assert first["score"] >= second["score"]
    assert first["path"].startswith(str(media))


def test_moments_have_times_and_a_page_with_strips(run, made, tmp_path):
    path, media = made
    page = tmp_path / "moments.html"
    code, out, _ = run("search", path, "red", "--moments", "-k", 3, "--page", page)
    assert code == 0
    _, name, start, dash, end = out.splitlines()[0].split()
    assert (name, dash) == (str(media / "clip.mp4"), "–")
    assert start == "00:00:00.0"
    assert end > start
    assert '<div class="strip">' in page.read_text()
    _, out, _ = run("search", path, "--image", media / "clip.mp4", "--moments", "--json")
    assert {hit["kind"] for hit in objects(out)} == {"video"}
    code, _, err = run("search", path, "red", "--moments", "--whole")
    assert code == 1
    assert "as wholes or by their moments" in err


def test_moments_are_exported_in_every_form(run, made, tmp_path):
    path, media = made
    forms = {"--cut": "cut", "--edl": "a.edl", "--otio": "a.otio", "--vtt": "a.vtt"}
    targets = [word for form, name in forms.items() for word in (form, tmp_path / name)]
    code, out, err = run("export", path, "red", "-k", 1, *targets, "--jsonl", tmp_path / "a.jsonl")
    assert (code, err) == (0, "")
    assert out.count("1 moment in 1 file") == 5
    assert {p.name for p in tmp_path.iterdir()} == {*forms.values(), "a.jsonl"}
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["001_clip_00-00-00.0.mp4"]
    code, _, err = run("export", path, "red", "--edl", tmp_path / "a.edl")
    assert code == 1
    assert "already there" in err
    code, out, _ = run("export", path, "red", "--edl", tmp_path / "a.edl", "--overwrite", "--json")
    assert code == 0
    [report] = objects(out)
    assert [moment["outcome"] for moment in report["moments"]] == ["written"]
    assert report["moments"][0]["source"] == str(media / "clip.mp4")
    for wrong in (["red"], ["--edl", "x.edl"], ["red", "--edl", "x.edl", "--exact"]):
        code, _, err = run("export", path, *wrong)
        assert code == 2
        assert "give" in err


def test_a_collection_is_measured_with_annotations(run, made, tmp_path):
    path, _ = made
    question = {
        "qid": 1, "query": "red", "vid": "clip", "duration": 12, "relevant_windows": [[0, 12]]
    }  # fmt: skip
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(question) + "\n")
    code, out, _ = run("eval", "moments", path, "--annotations", file, "--json")
    [report] = objects(out)
    assert code == 0
    assert report["num_queries"] == 1
    assert report["figures"]["own video"]["mIoU"] > 0.9
    code, out, _ = run("eval", "moments", path, "--annotations", file)
    assert "1 questions about 1 videos" in out
    assert "random window" in out
    file.write_text(json.dumps(question | {"vid": "another"}) + "\n")
    code, _, err = run("eval", "moments", path, "--annotations", file)
    assert code == 1
    assert "1 of 1 videos" in err
    for wrong in ([], [path], ["--annotations", file], [path, "--films", tmp_path]):
        assert run("eval", "moments", *wrong)[0] == 2


def test_search_reads_queries_from_standard_input(run, made, monkeypatch):
    import io

    def typed(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    path, _ = made
    typed("red\n\ngreen\n")
    _, out, _ = run("search", path, "-", "-k", 2, "--json")
    hits = objects(out)
    assert [(hit["query"], hit["rank"]) for hit in hits] == [
        ("red", 1), ("red", 2), ("green", 1), ("green", 2)
    ]  # fmt: skip
    typed("red")  # no line end
    _, out, _ = run("search", path, "-", "-k", 1)
    assert out.startswith("# red\n")


def test_search_by_words_pictures_and_what_to_take_away(run, made, tmp_path):
    path, media = made
    image = sorted(media.rglob("0*.jpg"))[3]
    code, out, err = run("search", path, "--image", image, "-k", 1, "--files-only")
    assert (code, out, err) == (0, f"{image}\n", "")
    code, out, _ = run(
        "search", path, "--text", "2:at night", "--image", image, "--minus", "people", "--json"
    )
    assert code == 0
    assert len(objects(out)) == 9
    code, out, _ = run("search", path, "--video", media / "clip.mp4", "-k", 1, "--files-only")
    assert out == f"{media / 'clip.mp4'}\n"
    page = tmp_path / "hits.html"
    code, _, err = run("search", path, "red <b>", "--page", page)
    assert code == 0
    assert "Wrote" in err
    text = page.read_text()
    assert "red &lt;b&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 9


def test_similar_leaves_itself_out(run, made):
    path, media = made
    image = sorted(media.rglob("0*.jpg"))[3]
    _, out, _ = run("similar", path, image, "-k", 20, "--json")
    assert len(objects(out)) == 8
    assert str(image) not in out
    code, _, err = run("similar", path, media / "notes.txt")
    assert code == 1
    assert "is not in" in err


def test_ingest_json_is_one_object_a_file_and_the_counts(run, made, tmp_path):
    _, media = made
    path = tmp_path / "new.ps"
    code, out, err = run("create", path, "--model", MODEL)
    assert (code, out) == (0, "")
    assert MODEL in err
    code, out, _ = run("ingest", path, media, "--json")
    *files, counts = objects(out)
    assert code == 0
    assert counts == {
        "ingested": 9, "unchanged": 0, "duplicate": 0, "skipped": 1, "removed": 0, "failed": 1
    }  # fmt: skip
    assert all(set(file) == {"path", "outcome", "reason"} for file in files)
    assert len({file["path"] for file in files}) == 11
    code, out, err = run("ingest", path, media)
    assert out == "9 unchanged, 1 skipped, 1 failed\n"
    assert "unreadable" in err
    assert "broken.jpg" in err


def test_ingest_makes_a_missing_collection_and_says_so(run, tmp_path, monkeypatch):
    media = write_pictures(tmp_path / "media", 2)
    monkeypatch.setattr("perception_search.collection.choose_model", lambda *_: MODEL)
    code, out, err = run("ingest", tmp_path / "photos.ps", media)
    assert (code, out) == (0, "2 ingested\n")
    assert "Created" in err.splitlines()[0]
    assert MODEL in err.splitlines()[0]


def test_a_dry_run_changes_nothing(run, made, tmp_path):
    path, media = made
    copy = tmp_path / "photos.ps"
    shutil.copytree(path, copy)
    Image.fromarray(picture(99)).save(media / "new.png")
    before = sorted(p.name for p in copy.rglob("*"))
    code, out, err = run("ingest", copy, media, "--dry-run")
    (media / "new.png").unlink()
    assert code == 0
    assert out.splitlines()[0] == f"would_read  {media / 'new.png'}"
    assert "1 to read, 0 to hide, 9 unchanged" in err
    assert sorted(p.name for p in copy.rglob("*")) == before


def test_exclude_and_metadata(run, made, tmp_path):
    _, media = made
    path = tmp_path / "photos.ps"
    table = tmp_path / "albums.csv"
    files = sorted(media.rglob("0*.jpg"))
    pd.DataFrame({"path": map(str, files), "album": ["a", "b"] * 4}).to_csv(table, index=False)
    run("create", path, "--model", MODEL)
    code, out, _ = run("ingest", path, media, "--exclude", "*.mp4", "--metadata", table)
    assert code == 0
    assert out.startswith("8 ingested")
    _, out, _ = run("search", path, "red", "--where", "album = 'a'", "--json")
    assert len(objects(out)) == 4


def test_classify_prints_probabilities(run, made):
    _, media = made
    image = sorted(media.rglob("0*.jpg"))[0]
    code, out, _ = run("classify", image, "a diagram", "a dog", "a cat", "--model", MODEL)
    assert code == 0
    values = [float(line.split()[0]) for line in out.splitlines()]
    assert sum(values) == pytest.approx(1, abs=0.01)
    assert values == sorted(values, reverse=True)
    _, out, _ = run("classify", image, "a dog", "a cat", "--model", MODEL, "--json")
    assert set(json.loads(out)) == {"a dog", "a cat"}


def test_an_index_is_tuned_and_says_what_it_finds(run, tmp_path):
    folder = make(tmp_path / "c.ps", 3000)
    code, out, err = run("index", folder, "--recipe", "hnsw", "--recall", "0.9")
    assert code == 0
    assert out.startswith("hnsw (HNSW32): 3000 rows, ")
    assert re.search(r"Of the ten best rows it finds [\d.]+% by picture, [\d.]+% by text\.", err)
    code, out, _ = run("tune", folder, "--recall", "1", "--json")
    tuned = json.loads(out)
    assert set(tuned) == {"search", "candidates", "recall", "milliseconds"}
    assert set(tuned["recall"]) == {"picture", "text"}
    _, out, _ = run("tune", folder)
    assert re.match(r"efSearch \d+, \d+ candidates a row: [\d.]+ ms a query\n", out)
    _, out, _ = run("info", folder)
    assert re.search(r"index +hnsw \(HNSW32\), 3000 rows, .*, finds [\d.]+% by picture", out)
    assert json.loads(run("info", folder, "--json")[1])["index"]["recall"]["text"] > 0.9
    assert run("tune", folder, "--recall", "95")[0] == 1


def test_index_info_failures_models(run, made):
    path, _ = made
    code, out, err = run("index", path)
    assert (code, out) == (0, "no index: every search is exact\n")
    assert "10 rows are scanned quickly: no index is needed" in err
    assert json.loads(run("index", path, "--json")[1]) == {"recipe": "exact"}
    assert "index       none: every search is exact" in run("info", path)[1]
    code, out, err = run("tune", path)
    assert (code, out) == (1, "")
    assert "no index to tune" in err
    code, out, _ = run("index", path, "--recipe", "hnsw")
    assert code == 0
    assert out.startswith("hnsw (HNSW32): 10 rows")
    code, out, _ = run("info", path)
    assert f"model       {MODEL}, dim 512" in out
    assert "8 images, 1 videos" in out
    assert "index       hnsw (HNSW32), 10 rows" in out
    _, out, _ = run("info", path, "--json")
    assert json.loads(out)["images"] == 8
    _, out, _ = run("failures", path, "--json")
    [failure] = objects(out)
    assert failure["outcome"] == "unreadable"
    _, out, _ = run("models")
    assert len(out.splitlines()) == 1 + 14 + 1
    assert "PE-Core-B16-224           224    16   768    12    12  3072  1024       32" in out
    _, out, _ = run("models", "--json")
    assert {model["name"] for model in objects(out)} >= {MODEL, "PE-Core-G14-448"}


def test_remove_and_verify(run, made, tmp_path):
    path, media = made
    copy = tmp_path / "photos.ps"
    shutil.copytree(path, copy)
    image = sorted(media.rglob("0*.jpg"))[0]
    code, out, _ = run("remove", copy, image)
    assert (code, out) == (0, "1 removed\n")
    code, out, err = run("verify", copy)
    assert (code, out) == (0, "")
    assert "Every byte" in err
    victim = next((copy / "rows").glob("*.parquet"))
    content = bytearray(victim.read_bytes())
    content[-200] ^= 1
    victim.write_bytes(content)
    assert run("verify", copy, "--quick")[0] == 0
    code, out, _ = run("verify", copy, "--json")
    assert code == 1
    assert json.loads(out)["path"] == str(victim)
    code, _, err = run("search", copy, "red")
    assert code == 1
    assert "does not hold what was written" in err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["search", "nowhere.ps", "a"], 1, "is not a collection"),
        (["search", "{made}"], 2, "nothing to look for"),
        (["search", "{made}", "  "], 1, "a query is empty"),
        (["search", "{made}", "a", "--where", "nope = 1"], 1, "The columns are"),
        (["search", "{made}", "--text", "0:a"], 1, "a weight of 0"),
        (
            ["search", "{made}", "--image", "{made}/collection.json"],
            1,
            "collection.json: not a picture",
        ),
        (["search", "{made}", "a", "-k", "0"], 2, "-k"),
        (["search", "{made}", "a", "--nonsense"], 2, "--nonsense"),
        (["ingest", "{made}", "/nowhere/at/all"], 1, "does not exist"),
        (["ingest", "{made}"], 2, "Missing argument 'sources'"),
        (["create", "{made}"], 1, "exists already"),
        (["create", "{made}2", "--model", "CLIP-B32"], 1, "PE-Core-B16-224"),
        (["create", "{made}2", "--model", "PE-Core-G14-448"], 1, "PERCEPTION_SEARCH_WEIGHTS"),
        (["create", "{made}2", "--length", "0"], 1, "must be 0.1 at least"),
        (["index", "{made}", "--recipe", "nonsense"], 1, "neither a recipe"),
        (["remove", "{made}"], 2, "nothing to remove"),
        (["ingest", "/usr", "{made}"], 1, "The collection comes first"),
        (["remove", "{made}", "/nowhere"], 1, "nothing was removed"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(run, made, arguments, code, sentence):
    path, _ = made
    got, out, err = run(*(str(a).replace("{made}", str(path)) for a in arguments))
    assert got == code
    assert sentence in err
    assert out == ""
    assert "Traceback" not in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1


def test_videos_are_found_by_other_stretches_once_asked(run, made, tmp_path):
    path = tmp_path / "films.ps"
    code, _, _ = run(
        "create", path, "--model", MODEL, "--frames-per-second", 2, "--length", 6, "--overlap", 1
    )
    assert code == 0
    run("ingest", path, made[1] / "clip.mp4")
    _, out, _ = run("info", path)
    assert "2 frames a second by-time, whole ones by 8 frames as in pe-eval, found by" in out
    assert "segments of 6 s, overlapping by 1 s" in out
    code, out, _ = run("resegment", path, "--shots", "--length", 3)
    assert (code, out) == (0, "1 videos in shots, of 3 s at most\n")
    _, out, _ = run("resegment", path, "--length", 4, "--json")
    assert objects(out) == [
        {"segmentation": {"by": "length", "seconds": 4.0, "overlap_seconds": 0.0}, "rows": 4}
    ]
    code, _, err = run("resegment", path, "--length", 4, "--overlap", 4)
    assert code == 1
    assert "shorter than a segment" in err
    code, _, err = run("resegment", path, "--shots", "--overlap", 1)
    assert code == 1
    assert "shots do not overlap" in err


def commands():
    """The words of every command."""
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    inner = [
        f"{group.name} {command.name or command.callback.__name__}"
        for group in cli.app.registered_groups
        for command in group.typer_instance.registered_commands
    ]
    return names + inner


def test_every_help_opens_with_an_example_on_a_line_of_its_own(run):
    assert len(commands()) == 57
    assert len(set(commands())) == 57, "no name twice"
    for command in commands():
        code, out, _ = run(*command.split(), "--help")
        assert code == 0
        opening = out.split("Arguments:")[0].split("Options:")[0].splitlines()
        assert any(line.startswith(f"  perception-search {command}") for line in opening), out
        assert "\\b" not in out


def has_children(pid):
    """Whether the process has started others, by /proc; True where there is none."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").parent.parent.glob("*/children")
        return any(path.read_text().strip() for path in listed)
    except OSError:
        return True


def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(tmp_path, weights):
    media = write_pictures(tmp_path / "media", 60)
    path = tmp_path / "photos.ps"
    Collection.create(path, model=MODEL, weights=weights)
    command = [sys.executable, "-m", "perception_search", "ingest", str(path), str(media)]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what a shell starts in the background is told to ignore Ctrl-C, and so are its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not has_children(child.pid) and time.monotonic() < deadline:
        time.sleep(0.1)  # until its decoding processes run
    time.sleep(1)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "run the same command to go on" in err
    assert "Traceback" not in err
    assert out == ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Collection.open(path).info()["images"] == 60


def test_a_repeated_query_needs_no_network_of_neurons(made, weights):
    path, _ = made
    code = (
        "import sys; from perception_search import Collection; "
        f"hits = Collection.open({str(path)!r}).search('a repeated query'); "
        "print(len(hits), 'torch' in sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert said[0].stdout.split() == ["9", "True"]
    assert said[1].stdout.split() == ["9", "False"]


def test_an_unguarded_script_of_three_lines_works(tmp_path, made):
    path, media = made
    script = tmp_path / "script.py"
    script.write_text(
        "from perception_search import Collection\n"
        f"photos = Collection.open({str(path)!r})\n"
        f"print(photos.ingest({str(media)!r}, checksum=True).counts())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'unchanged': 9" in done.stdout
