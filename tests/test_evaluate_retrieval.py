"""Retrieval by captions: layouts, what is missing, and figures that the slow way gives too."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import bench_relevance
import data
import numpy as np
import pytest
from fakes import ColourEncoder
from media_files import write_video
from media_folder import write_pictures

from perception_search import Collection, relevance, zero_shot
from perception_search.encoder.reframed import Reframed
from perception_search.errors import QueryError
from perception_search.evaluate import retrieval
from perception_search.evaluate.caption_sets import CAPTION_SETS, CaptionSet
from perception_search.evaluate.captions import Captions, find_media, load_captions
from perception_search.evaluate.embeddings import whole_rows
from perception_search.evaluate.retrieval import HEADLINE, evaluate_retrieval

PARITY = Path(__file__).parent.parent / ".venv-parity/bin/python"


def both_ways(scores, right, reweight, **how):
    [asked] = zero_shot.ranks(scores, right, reweight=reweight)
    others = zero_shot.right_captions(right, scores.shape[1])
    [answered] = zero_shot.ranks(scores.T, others, reweight=reweight)
    return zero_shot.recalls(asked, answered, **how)


def saved(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_layouts_are_told_by_their_fields(tmp_path):
    coco = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 8, "caption": "two"},
            {"image_id": 7, "caption": "one"},
            {"image_id": 8, "caption": "three"},
        ],
    }
    expected = (("a.jpg", "b.jpg"), ("one", "two", "three"), (0, 1, 1))
    found = load_captions(saved(tmp_path / "coco.json", coco))
    assert (found.layout, found.names, found.texts, found.owner) == ("coco", *expected)

    def entry(name, split, *texts):
        return {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]}

    karpathy = {
        "images": [
            entry("a.jpg", "test", "one"),
            entry("x.jpg", "train", "nothing"),
            entry("b.jpg", "test", "two", "three"),
        ]
    }
    path = saved(tmp_path / "dataset_coco.json", karpathy)
    found = load_captions(path)
    assert (found.layout, found.names, found.texts, found.owner) == ("karpathy", *expected)
    assert load_captions(path, split="train").names == ("x.jpg",)
    with pytest.raises(QueryError, match="nothing of the split 'val'"):
        load_captions(path, split="val")

    listed = [
        {"file_name": "a.jpg", "captions": ["one"]},
        {"file": "b.jpg", "captions": ["two", "three"]},
        {"file": "c.jpg", "captions": []},
    ]
    found = load_captions(saved(tmp_path / "list.json", listed))
    assert (found.layout, found.names, found.texts, found.owner) == ("list", *expected)


@pytest.mark.parametrize("separator", [",", ";"])
def test_msr_vtt_s_table(tmp_path, separator):
    lines = ["key,vid_key,video_id,sentence", 'r,m,video1,"a man, singing"', "r,m,video2,a dog"]
    content = "\n".join(lines)
    if separator == ";":
        content = content.replace('"a man, singing"', "a man| singing").replace(",", ";")
        content = content.replace("|", ",")
    found = load_captions(saved(tmp_path / "vtt.csv", content))
    assert found == Captions("table", ("video1", "video2"), ("a man, singing", "a dog"), (0, 1))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", "{", "is no JSON"),
        ("x.json", {"rows": 1}, "has no layout that is known"),
        ("x.json", [{"name": "a"}], "has no layout that is known"),
        ("x.csv", "id,text\n1,a", "has the columns id, text"),
    ],
)
def test_what_is_no_captions_is_told(tmp_path, name, content, said):
    with pytest.raises(QueryError, match=said):
        load_captions(saved(tmp_path / name, content))


def test_media_lie_at_any_depth(tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    for name in ("deep/a.jpg", "deep/er/a.jpg", "deep/er/video1.mp4", "b.jpg"):
        (tmp_path / name).touch()
    found = find_media(["a.jpg", "x/b.jpg", "video1", "c.jpg"], tmp_path)
    assert found == {
        "a.jpg": tmp_path / "deep/a.jpg",
        "x/b.jpg": tmp_path / "b.jpg",
        "video1": tmp_path / "deep/er/video1.mp4",
    }


@pytest.fixture
def pictures(tmp_path):
    folder = write_pictures(tmp_path / "media", 12)
    return folder, sorted(path for path in folder.rglob("*") if path.is_file())


def captions_of(paths):
    """Two captions a picture; those of the first two read the same."""
    words = zip(
        ["red", "green", "blue", "dark", "bright"] * 3, ["dark", "red", "bright"] * 5, strict=True
    )
    texts = [f"{a} {b} {number}" for number, (a, b) in enumerate(words)][: len(paths)]
    texts[1] = texts[0]
    both = [text for one in texts for text in (one, f"a {one}")]
    owner = [number for number in range(len(paths)) for _ in range(2)]
    return Captions("list", tuple(path.name for path in paths), tuple(both), tuple(owner))


@pytest.fixture
def made(tmp_path):
    return Collection.create(tmp_path / "c.ps", encoder=ColourEncoder())


def test_figures_are_those_of_all_products(pictures, made):
    folder, paths = pictures
    captions = captions_of(paths)
    report = evaluate_retrieval(made, captions, folder, dataset="mine")
    assert (report.num_media, report.num_captions, report.kind) == (12, 24, "image")
    rows = made.snapshot.rows
    place = {made.snapshot.first_paths(np.array([i]))[0].name: i for i in range(12)}
    where = [int(np.flatnonzero(made.snapshot.item_of_row == place[n])[0]) for n in captions.names]
    media = rows.embeddings(np.array(where))
    texts = ColourEncoder().encode_text(captions.texts)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    owner = np.array(captions.owner)
    scores = texts @ media.T
    for way, right in (
        ("plain, own", lambda text, medium: owner[text] == medium),
        (
            "plain, shared",
            lambda text, medium: (
                medium
                in {owner[t] for t, c in enumerate(captions.texts) if c == captions.texts[text]}
            ),
        ),
    ):
        order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        hits = [any(right(text, one) for one in row) for text, row in enumerate(order)]
        assert report.figures[way]["image_retrieval_recall@5"] == pytest.approx(np.mean(hits))
    plain = report.figures["plain, own"]
    searched = report.searched["exact"]
    assert {name: plain[name] for name in searched} == pytest.approx(searched)
    low, high = report.intervals["image_retrieval_recall@1"]
    assert low <= report.figures[HEADLINE]["image_retrieval_recall@1"] <= high


def test_a_second_run_opens_nothing_and_json_has_clip_benchmark_s_names(pictures, made):
    folder, paths = pictures
    first = evaluate_retrieval(made, captions_of(paths), folder, dataset="coco")
    version = made.snapshot.version
    again = evaluate_retrieval(made, captions_of(paths), folder, dataset="coco")
    assert made.snapshot.version == version
    assert again.figures == first.figures
    content = first.as_dict()
    assert content["task"] == "zeroshot_retrieval"
    assert set(content["metrics"]) == {
        f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)
    }
    assert content["published"] is None, "these are not COCO's 5,000 pictures"
    json.dumps(content)
    assert "Not all of the set: it has 5,000 images and 25,010 captions" in first.table()
    assert "plain, shared" not in first.table()
    assert "plain, shared" in first.table(explain=True)


def test_what_is_missing_or_unreadable_is_named_and_left_out(pictures, made, tmp_path):
    folder, paths = pictures
    captions = captions_of(paths)
    paths[3].unlink()
    paths[4].write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with pytest.raises(
        QueryError, match=rf"11 of 12 files were found .* missing are {paths[3].name}"
    ):
        evaluate_retrieval(made, captions, folder, dataset="mine")
    assert len(made.snapshot.rows) == 0, "nothing was embedded before it was told"
    report = evaluate_retrieval(made, captions, folder, dataset="mine", allow_missing=True)
    assert (report.num_media, report.num_captions, report.num_missing) == (10, 20, 1)
    assert list(report.unreadable) == [str(paths[4])]


def test_other_items_in_the_collection_are_refused(pictures, made, tmp_path):
    folder, paths = pictures
    made.ingest(write_pictures(tmp_path / "others", 2, first=50))
    with pytest.raises(QueryError, match="holds 2 other items"):
        evaluate_retrieval(made, captions_of(paths), folder, dataset="mine")


def test_videos_are_scored_by_the_mean_of_unit_frames(made, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"video{number}.mp4", 16, first=40 * number)
    captions = Captions(
        "msrvtt", ("video0", "video1", "video2"), ("red", "green", "dark"), (0, 1, 2)
    )
    report = evaluate_retrieval(made, captions, folder, dataset="msrvtt")
    assert report.kind == "video"
    snapshot = made.snapshot
    whole = np.flatnonzero(snapshot.rows.scope == 2)
    media = snapshot.rows.embeddings(whole) * snapshot.rows.norm[whole][:, None]
    names = [snapshot.first_paths(np.array([i]))[0].stem for i in snapshot.item_of_row[whole]]
    texts = zero_shot.unit(ColourEncoder().encode_text(captions.texts))
    right = [np.array([names.index(name)]) for name in captions.names]
    expected = both_ways(texts @ media.T, right, 1.0, kind="video")
    assert report.figures[HEADLINE] == pytest.approx(expected, abs=1e-6)
    assert set(report.searched) == {"whole", "exact", "normalised"}
    assert set(report.searched["whole"]) == {"video_retrieval_recall@1"}


LAYOUTS = {
    "flickr30k.json": {
        "images": [
            {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a, b"}, {"raw": "c"}]},
            {"filename": "2.jpg", "split": "test", "sentences": [{"raw": "d"}]},
            {"filename": "3.jpg", "split": "val", "sentences": [{"raw": "e"}]},
        ]
    },
    "results.token": "1.jpg#0\ta, b\n1.jpg#1\tc\n2.jpg#0\td\n",
    "test_karpathy.txt": "image,caption\n1.jpg,a, b\n1.jpg,c\n2.jpg,d\n",
    "captions.csv": 'image,caption\n1.jpg,"a, b"\n1.jpg,c\n2.jpg,d\n',
    "results.csv": (
        "image_name| comment_number| comment\n1.jpg| 0| a, b\n1.jpg| 1| c\n2.jpg| 0| d\n"
    ),
    "annotations_30k.csv": (
        "raw,sentids,split,filename,img_id\n"
        '"[""a, b"", ""c""]","[0]",test,1.jpg,0\n"[""d""]","[5]",test,2.jpg,1\n'
        '"[""e""]","[9]",val,3.jpg,2\n'
    ),
    "blip.json": [
        {"image": "1.jpg", "caption": ["a, b", "c"]},
        {"image": "2.jpg", "caption": ["d"]},
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_flickr30k_s_forms_say_the_same(tmp_path, name):
    found = load_captions(saved(tmp_path / name, LAYOUTS[name]))
    assert (found.names, found.texts, found.owner) == (
        ("1.jpg", "2.jpg"),
        ("a, b", "c", "d"),
        (0, 0, 1),
    )


def test_videos_with_many_captions_or_a_paragraph(tmp_path):
    msrvtt = {
        "videos": [{"video_id": "v1", "split": "test"}, {"video_id": "v0", "split": "train"}],
        "sentences": [{"video_id": v, "caption": c} for v, c in (("v0", "x"), ("v1", "a"))],
    }
    found = load_captions(saved(tmp_path / "MSRVTT_data.json", msrvtt))
    assert (found.layout, found.names, found.texts) == ("msrvtt", ("v1",), ("a",))

    lines = "# Descriptions of clips\nab_1_2 A bird bathes.\nab_1_2 A bird.\n-c_3_4 A dog runs.\n"
    found = load_captions(saved(tmp_path / "AllVideoDescriptions.txt", lines))
    expected = (("ab_1_2", "-c_3_4"), ("A bird bathes.", "A bird.", "A dog runs."), (0, 0, 1))
    assert (found.names, found.texts, found.owner) == expected
    joined = "video_id,sentence\nab_1_2,A bird bathes.@A bird.\n-c_3_4,A dog runs.\n"
    found = load_captions(saved(tmp_path / "msvd.csv", joined), joined_by="@")
    assert (found.names, found.texts, found.owner) == expected
    assert len(load_captions(tmp_path / "msvd.csv").texts) == 2

    times = [[0, 0], [0, 1], [0, 0]]
    didemo = [
        {"video": "u_1.mov", "description": "first. ", "times": times, "annotation_id": 1},
        {"video": "u_2.mov", "description": "alone", "times": times, "annotation_id": 2},
        {"video": "u_1.mov", "description": "then", "times": times, "annotation_id": 3},
    ]
    found = load_captions(saved(tmp_path / "test_data.json", didemo))
    assert (found.layout, found.texts) == ("didemo", ("first. then", "alone"))

    activitynet = {"v_a": {"duration": 9, "timestamps": [[0, 1]], "sentences": ["One.", " Two."]}}
    found = load_captions(saved(tmp_path / "val_1.json", activitynet))
    assert (found.layout, found.names, found.texts) == ("activitynet", ("v_a",), ("One. Two.",))


def test_a_list_of_names_says_what_counts(tmp_path):
    file = saved(tmp_path / "d.txt", "a_1 one\nb_2 two\nc_3 three\n")
    names = saved(tmp_path / "test_list.txt", "c_3.avi\na_1\n")
    assert load_captions(file, str(names)).names == ("a_1", "c_3")
    names = saved(tmp_path / "test.json", ["b_2"])
    assert load_captions(file, str(names)).texts == ("two",)
    names = saved(tmp_path / "other.txt", "a_1\nz_9\n")
    with pytest.raises(QueryError, match=r"nowhere\.txt is not there; name a part, or a file"):
        load_captions(file, str(tmp_path / "nowhere.txt"))
    with pytest.raises(QueryError, match=r"1 of 2 names in .* have captions; missing are z_9"):
        load_captions(file, str(names))


def test_videos_are_found_whatever_their_extension(tmp_path):
    for name in ("u_1.mp4", "abc.webm", "N01_2.3gp"):
        (tmp_path / name).touch()
    assert set(find_media(["u_1.mov", "v_abc", "N01_2.avi", "v_none"], tmp_path)) == {
        "u_1.mov",
        "v_abc",
        "N01_2.avi",
    }


def test_the_real_lists_are_read(tmp_path):
    folder = data.folder("annotations")
    comma = load_captions(folder / "MSRVTT_JSFUSION_test.csv")
    semicolon = load_captions(folder / "MSRVTT_JSFUSION_test_semicolon.csv")
    assert comma == semicolon
    assert (len(comma.names), len(comma.texts), len(set(comma.texts))) == (1000, 1000, 995)
    didemo = load_captions(folder / "didemo_val.json")
    assert len(didemo.names) == len(didemo.texts)
    assert len(didemo.names) > 1000


@pytest.mark.parametrize("dataset", CAPTION_SETS)
def test_every_data_set_has_its_command_that_says_what_is_missing(run, tmp_path, dataset):
    rows = "video_id,sentence\nmissing_1,a dog\n"
    table = "image,caption\nmissing_1.jpg,a dog\n"
    is_video = CAPTION_SETS[dataset].kind == "video"
    file = saved(tmp_path / "c.csv", rows if is_video else table)
    command = ["eval", dataset, "--annotations", file, "--work", tmp_path / "c.ps"]
    code, out, err = run(*command, "--root", tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert "is no folder; it should hold the media" in err
    code, _, err = run(*command, "--root", tmp_path)
    assert code == 1
    assert "0 of 1 files were found" in err
    assert "missing are missing_1" in err
    code, _, err = run(*command[:3], tmp_path / "none.csv", "--root", tmp_path)
    assert code == 1
    assert "cannot be read" in err
    assert not (tmp_path / "c.ps").exists(), "no model was loaded for that"


def test_published_figures_stand_beside_the_whole_set_alone(pictures, made, monkeypatch):
    folder, paths = pictures
    small = CaptionSet("twelve", "image", 12, 24, "COCO T2I", "COCO I2T", remark="A remark.")
    monkeypatch.setattr(retrieval, "CAPTION_SETS", {"small": small})
    report = evaluate_retrieval(made, captions_of(paths), folder, dataset="small")
    assert report.published is None, "nobody published a figure of this model"
    monkeypatch.setattr(
        retrieval, "published", lambda model, column: {"COCO T2I": 57.1, "COCO I2T": 75.9}[column]
    )
    report = evaluate_retrieval(made, captions_of(paths), folder, dataset="small")
    assert (report.published, report.published_of_media) == (57.1, 75.9)
    assert "| 57.1 | " in report.table()
    assert "A remark." in report.table()
    assert CAPTION_SETS["coco-val2017"].of_texts == "", "57.1 is of another set"


def test_other_pixels_and_other_frames_stand_beside(made, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"video{number}.mp4", 40, first=40 * number)
    captions = Captions(
        "table", ("video0", "video1", "video2"), ("red", "green", "dark"), (0, 1, 2)
    )
    cropping = Reframed(ColourEncoder(), "centre_crop")
    cropped = Collection.create(tmp_path / "cropped.ps", encoder=cropping)
    evaluate_retrieval(cropped, captions, folder, dataset="mine")
    report = evaluate_retrieval(
        made, captions, folder, dataset="mine", beside={"centre crop": cropped}, explain=True
    )
    ways = {way.rpartition("; ")[0] for way in report.figures}
    rate = "1 frames a second"
    counted = f"{rate}, counted by their length"
    assert ways == {"", "mean made unit", rate, counted, "centre crop"}
    assert len(report.figures) == 4 * len(ways)
    grid = made.snapshot.grids
    hashes = [made.snapshot.path_records[folder / f"video{n}.mp4"].content_hash for n in range(3)]
    media = np.stack([zero_shot.unit(grid.of(one).embeddings).mean(axis=0) for one in hashes])
    texts = zero_shot.unit(ColourEncoder().encode_text(captions.texts))
    right = [np.array([n]) for n in range(3)]
    expected = both_ways(texts @ media.T, right, None, kind="video")
    assert report.figures[f"{rate}; plain, own"] == pytest.approx(expected, abs=1e-3)
    assert any("int(i * N / n)" in remark for remark in report.remarks)
    assert not any("centre crop" in remark for remark in report.remarks)


def test_videos_with_frames_counted_by_their_length_are_refused(tmp_path):
    made = Collection.create(tmp_path / "raw.ps", encoder=ColourEncoder(pooling="raw-frames"))
    write_video(tmp_path / "a.mp4", 16)
    captions = Captions("list", ("a.mp4",), ("red",), (0,))
    with pytest.raises(QueryError, match="retrieval counts each once"):
        evaluate_retrieval(made, captions, tmp_path, dataset="mine")
    assert len(made.snapshot.rows) == 0


def test_the_command(run, tmp_path):
    folder = data.folder("coco345")
    some = json.loads((folder / "captions.json").read_text())[:12]
    annotations = saved(tmp_path / "captions.json", some)
    command = ["eval", "captions", "--root", folder / "images", "--annotations", annotations]
    command += ["--work", tmp_path / "c.ps", "--model", "starter", "--dataset", "twelve"]
    code, out, _ = run(*command, "--explain-protocol", "--out", tmp_path / "result.json")
    assert code == 0
    assert out.startswith("twelve, starter: 60 captions of 12 images; 12 embedded in")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["image_retrieval_recall@5"] > 0.6
    code, out, _ = run(*command, "--json", "--index", "Flat")
    again = json.loads(out)
    assert again["metrics"] == result["metrics"]
    assert again["index"] == "Flat"
    assert again["searched"]["indexed"] == again["searched"]["exact"]
    code, _, err = run(*command, "--frames", "4")
    assert (code, "has 8 frames of each video, not 4" in err) == (1, True)
    crop = run(*command, "--resize", "centre-crop", "--explain-protocol")
    assert (tmp_path / "c-centre-crop.ps").exists()
    assert "| the model's own; re-weighted, own | " in crop[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "num_media", "num_captions"),
    [("captions_val2017.json", 5000, 25_014), ("MSRVTT_JSFUSION_test.csv", 1000, 1000)],
)
def test_real_lists_are_scored_in_seconds(file, num_media, num_captions):
    captions = load_captions(data.folder("annotations") / file)
    assert (len(captions.names), len(captions.texts)) == (num_media, num_captions)
    rng = np.random.default_rng(0)
    media = zero_shot.unit(rng.standard_normal((num_media, 1024), np.float32))
    noise = rng.standard_normal((num_captions, 1024), np.float32)
    texts = zero_shot.unit(media[np.array(captions.owner)] + 0.2 * noise)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    figures, _ = retrieval.score(texts, media, captions, "image")
    print(f"{file} at true size: {time.perf_counter() - start:.1f} s, {figures[HEADLINE]}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (2 << 20) * (1 if sys.platform != "darwin" else 1024)  # KiB; bytes on macOS
    assert len(figures) == 4
    assert 0.5 < figures[HEADLINE]["image_retrieval_recall@1"] <= 1


def clip_benchmark_s(texts, media, owner, folder):
    """What clip_benchmark's own evaluation says of these embeddings."""
    np.savez(folder / "in.npz", media=media, texts=texts, owner=owner)
    code = (
        "import json, sys, numpy, torch\n"
        "from clip_benchmark.metrics.zeroshot_retrieval import evaluate\n"
        "z = numpy.load(sys.argv[1])\n"
        "class Model:\n"
        "    def encode_image(self, rows): return torch.tensor(z['media'])[rows]\n"
        "    def encode_text(self, rows): return torch.tensor(z['texts'])[rows]\n"
        "tokenizer = lambda texts: torch.tensor([int(text) for text in texts])\n"
        "said = [[str(n) for n in numpy.flatnonzero(z['owner'] == m)]\n"
        "    for m in range(len(z['media']))]\n"
        "rows = [(torch.arange(len(said)), said)]\n"
        "found = evaluate(Model(), rows, tokenizer, 'cpu', amp=False, recall_k_list=[1, 5, 10])\n"
        "print(json.dumps(found))\n"
    )
    command = [PARITY, "-c", code, str(folder / "in.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


needs_clip_benchmark = pytest.mark.skipif(
    not PARITY.exists(), reason="make parity-env brings clip_benchmark"
)


@needs_clip_benchmark
def test_recall_is_clip_benchmark_s(tmp_path):
    rng = np.random.default_rng(0)
    media = zero_shot.unit(rng.standard_normal((40, 16), np.float32))
    owner = np.sort(np.concatenate([np.arange(40), rng.integers(0, 40, 60)]))
    texts = zero_shot.unit(media[owner] + 0.2 * rng.standard_normal((100, 16), np.float32))
    expected = clip_benchmark_s(texts, media, owner, tmp_path)
    right = zero_shot.right_media([str(n) for n in range(100)], owner, "own")
    assert len(expected) == 6
    assert both_ways(texts @ media.T, right, None) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_coco345_from_files_to_figures(run, tmp_path):
    folder = data.folder("coco345")
    command = ["eval", "captions", "--root", folder / "images", "--dataset", "coco345"]
    command += ["--annotations", folder / "captions.json", "--model", "starter"]
    code, out, _ = run(*command, "--work", tmp_path / "c.ps", "--index", "hnsw", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["num_media"], found["num_captions"]) == (345, 1725)
    of_pictures = [found["metrics"][f"image_retrieval_recall@{k}"] for k in (1, 5, 10)]
    of_texts = [found["metrics"][f"text_retrieval_recall@{k}"] for k in (1, 5, 10)]
    print("coco345 by PE's protocol:", of_pictures, of_texts)
    assert of_pictures == pytest.approx([0.174, 0.514, 0.700], abs=0.01)
    assert of_texts == pytest.approx([0.174, 0.371, 0.522], abs=0.01)
    searched = found["searched"]
    assert searched["exact"] == pytest.approx(
        {name: found["figures"]["plain, own"][name] for name in searched["exact"]}, abs=1e-9
    )
    assert searched["indexed"]["image_retrieval_recall@10"] > of_pictures[2] - 0.03

    collection = Collection.open(tmp_path / "c.ps")
    figures = bench_relevance.measured(collection, folder)
    print(json.dumps(figures))
    own = figures["own picture"]
    shared = figures["every picture with a word in common"]
    ours = f"QB-Norm {relevance.SHARPNESS:g}, in deviations"
    assert own["at_rate"]["0.2"]["false_accepts"] == pytest.approx(0.225, abs=0.03)
    assert shared["equal_error"]["cosine"] == pytest.approx(0.341, abs=0.02)
    assert shared["equal_error"][ours] == pytest.approx(0.274, abs=0.02)
    assert all(choice.endswith("in deviations") for choice in shared["cross_validated"]["chosen"])

    if PARITY.exists():
        captions = load_captions(folder / "captions.json")
        where = find_media(captions.names, folder / "images")
        rows = whole_rows(collection.snapshot, [where[name] for name in captions.names])
        media = collection.snapshot.rows.embeddings(rows)
        texts = np.stack([one for _, one in collection.query_encoder().texts(captions.texts)])
        theirs = clip_benchmark_s(texts, media, np.array(captions.owner), tmp_path)
        assert found["figures"]["plain, own"] == pytest.approx(theirs, abs=0.0007)  # one caption
