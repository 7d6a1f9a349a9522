"""All columns of the cards at once, and published figures beside what others measured."""

import json
import math

import pytest
from fakes import ColourEncoder
from media_folder import colour, write_video
from PIL import Image

from perception_search.errors import QueryError
from perception_search.evaluate.class_names import imagenet_classes
from perception_search.evaluate.measured_elsewhere import lmms_column, lmms_results, own_results
from perception_search.published import MODEL_CARDS, TABLES, published

RED, BLUE = (220, 20, 20), (20, 20, 220)


def save(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colour(rgb)).save(path)
    return path.name


@pytest.fixture
def data_sets(tmp_path):
    """Tiny ones: ImageNet-A and ObjectNet by classes, COCO and MSR-VTT by captions, Kinetics."""
    root = tmp_path / "data"
    for one in imagenet_classes("A")[:2]:
        save(root / f"imagenet-a/{one.wnid}/a.jpg", RED)
    objects = root / "ObjectNet"
    save(objects / "images/alarm_clock/a.png", RED)
    save(objects / "images/tv/a.png", BLUE)
    (objects / "mappings").mkdir()
    labels = {"alarm_clock": "Red", "tv": "Blue"}
    (objects / "mappings/folder_to_objectnet_label.json").write_text(json.dumps(labels))
    (objects / "mappings/objectnet_to_imagenet_1k.json").write_text('{"Red": "a", "Blue": "b"}')
    names = [save(root / f"coco/val2014/{n}.jpg", rgb) for n, rgb in enumerate((RED, BLUE))]
    captions = [
        {"filename": name, "split": "test", "sentences": [{"raw": text}]}
        for name, text in zip(names, ("red", "blue"), strict=True)
    ]
    (root / "coco/dataset_coco.json").write_text(json.dumps({"images": captions}))
    for path, rgb in (("k400/val/tai_chi", RED), ("msrvtt/videos", BLUE)):
        (root / path).mkdir(parents=True)
        write_video(root / path / "video1.mp4", [colour(rgb, (64, 64))] * 10)
    lines = "key,vid_key,video_id,sentence\nr,m,video1,blue\n"
    (root / "msrvtt/MSRVTT_JSFUSION_test.csv").write_text(lines)
    return root


def test_all_columns_are_measured_and_what_is_not_there_is_named(
    run, data_sets, tmp_path, monkeypatch
):
    def load(model, *, pooling, **_):
        return ColourEncoder(pooling=pooling)

    for module in ("encoder", "own_encoder"):
        monkeypatch.setattr(f"perception_search.{module}.load_encoder", load)
    monkeypatch.setattr(
        "perception_search.evaluate.embeddings.cache_folder", lambda: tmp_path / "cache"
    )
    out = tmp_path / "results"
    command = ["eval", "all", "--root", data_sets, "--out", out, "--model", "starter"]
    code, said, err = run(*command, "--allow-missing")
    assert code == 0
    assert "IN-1k left out: " in err
    assert "has no folder imagenetv2 or imagenet-v2" in err
    rows = {line.split(" | ")[0].strip("| "): line for line in said.splitlines() if "|" in line}
    assert [name for name in rows if name in MODEL_CARDS.benchmarks] == list(MODEL_CARDS.benchmarks)
    assert "| IN-v2 | not run |" in said
    assert rows["ObjectNet"].startswith("| ObjectNet | 100.0 |")
    assert rows["VTT T2V"].startswith("| VTT T2V | 100.0 |")
    assert rows["COCO T2I"].startswith("| COCO T2I | 100.0 |")
    assert "399 missing" in rows["K400"]
    assert (out / "table.md").read_text() == said
    assert (out / "objectnet-border-1.ps").is_dir()
    names = {"imagenet-a", "objectnet", "coco", "k400", "msrvtt"}
    assert {path.stem for path in out.glob("*.json")} == names
    results = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    assert results["k400"]["task"] == "zeroshot_classification"
    assert results["coco"]["published"] is None, "these are not COCO's 5,000"
    code, again, err = run(*command[:-2], "--json", "--allow-missing")
    assert code == 0
    assert {json.loads(line)["dataset"] for line in again.splitlines()} == names

    figures = {(one.column, round(one.percent, 1)) for one in own_results(out)}
    assert {("ObjectNet", 100.0), ("COCO T2I", 100.0), ("COCO I2T", 100.0)} < figures
    code, said, _ = run("eval", "report", "--results", out)
    assert code == 0
    assert "| colours, measured here |" in said
    code, _, err = run(*command)
    assert code == 1
    assert "2 images of 2 of 200 classes were found" in err
    (tmp_path / "empty").mkdir()
    code, _, err = run("eval", "all", "--root", tmp_path / "empty", "--out", tmp_path / "none")
    assert code == 1
    assert "holds none of the data sets" in err


def test_published_tables_say_whose_figures_they_are():
    for table in TABLES.values():
        assert table.title
        assert table.source
        assert table.evaluator
        for model, scores in table.rows.items():
            assert len(scores) == len(table.benchmarks), model
            assert all(math.isnan(one) or 0 < one < 2500 for one in scores)
        assert set(table.by_others) <= set(table.rows)
    sizes = ("PE-Core-B16-224", "PE-Core-L14-336", "PE-Core-G14-448")
    for model in sizes:  # the cards repeat the paper
        for column, score in MODEL_CARDS.scores(model).items():
            assert {
                TABLES[name].scores(model).get(column, score) for name in ("image", "video")
            } == {score}
    assert published("PE-Core-L14-336", "IN-R") == 95.2
    assert published("PE-Core-G14-448", "MSVD V2T") == 85.4
    assert published("PE-Core-T16-384", "IN-R") is None
    assert "COCO T2I" not in TABLES["image"].scores("EVA-18B-336")
    average = {"PE-Core-L14-336": 83.9, "SigLIP2-g-opt-384": 86.2, "PE-Core-G14-448": 86.6}
    for model, expected in average.items():  # the paper's own mean of the six
        scores = TABLES["image"].scores(model)
        six = [scores[c] for c in ("IN-1k", "IN-v2", "ObjectNet", "IN-A", "IN-R", "IN-Sketch")]
        assert sum(six) / 6 == pytest.approx(expected, abs=0.06)


def test_clip_benchmark_s_own_files_are_read(tmp_path):
    content = {"dataset": "wds/imagenet1k", "model": "PE-Core-L14-336", "metrics": {"acc1": 0.835}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "b.json").write_text("[1")
    [figure] = own_results(tmp_path)
    assert (figure.model, figure.column) == ("PE-Core-L14-336", "IN-1k")
    assert figure.percent == pytest.approx(83.5)
    (tmp_path / "a.json").unlink()
    with pytest.raises(QueryError, match="holds no results of `eval --out` or CLIP_benchmark"):
        own_results(tmp_path)


def test_lmms_eval_s_results_stand_beside_what_plm_s_authors_published(run, tmp_path):
    content = {
        "results": {
            "docvqa_val": {"alias": "docvqa_val", "anls,none": 0.9466, "anls_stderr,none": 0.002},
            "mvbench": {"mvbench_accuracy,none": 77.0},
            "rtloc_test": {"mIoU,none": 0.5},
            "made_up": {"accuracy,none": 0.25},
        },
        "config": {"model": "plm", "model_args": "pretrained=facebook/Perception-LM-8B"},
    }
    folder = tmp_path / "logs/facebook__Perception-LM-8B"
    folder.mkdir(parents=True)
    (folder / "20260101_results.json").write_text(json.dumps(content))
    figures = {one.task: one for one in lmms_results(tmp_path / "logs")}
    assert len(figures) == 4
    assert figures["docvqa_val"][2:] == ("anls", 0.9466, "DocVQA", 94.6)
    assert figures["mvbench"].published == 77.1
    assert figures["rtloc_test"].published == 59.1
    assert (figures["made_up"].column, figures["made_up"].published) == (None, None)
    assert {one.model for one in figures.values()} == {"Perception-LM-8B"}
    code, said, _ = run("eval", "report", "--lmms-eval", tmp_path / "logs")
    assert code == 0
    assert "| Perception-LM-8B | docvqa_val | anls | 0.9466 | DocVQA | 94.6 |" in said
    assert "Measured by PLM's authors, with lmms-eval" in said
    assert "detectron2" in said
    code, said, _ = run("eval", "report", "--lmms-eval", tmp_path / "logs", "--json")
    lines = [json.loads(line) for line in said.splitlines()]
    assert any(line.get("table") == "plm-image" and line["DocVQA"] == 94.6 for line in lines)
    assert lines[-1]["task"] == "made_up"
    code, _, err = run("eval", "report", "--lmms-eval", tmp_path)
    assert code == 0
    (folder / "20260101_results.json").unlink()
    code, _, err = run("eval", "report", "--lmms-eval", tmp_path)
    assert code == 1
    assert "holds no results.json of lmms-eval" in err


@pytest.mark.parametrize(
    ("task", "column"),
    [
        ("chartqa", "ChartQA"),
        ("textvqa_val", "TextVQA"),
        ("infovqa_test", "InfoQA"),
        ("seedbench", "SEED"),
        ("ok_vqa_val2014", "OKVQA"),
        ("vizwiz_vqa_val", "VizWiz"),
        ("coco2017_cap_val", "COCO cap"),
        ("flickr30k_test", "Flickr"),
        ("perceptiontest_val_mc", "PerceptionTest"),
        ("videomme", "VideoMME"),
        ("mmmu_val", "MMMU"),
        ("egoschema", "EgoSchema"),
        ("fgqa_test", "FGQA"),
        ("gsm8k", None),
    ],
)
def test_tasks_are_told_by_the_beginning_of_their_names(task, column):
    assert lmms_column(task) == column
