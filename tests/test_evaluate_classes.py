"""Zero-shot classification: every layout, right and wrong, and figures the slow way gives too."""

import json
import subprocess
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import data
import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, picture, write_video
from PIL import Image

from perception_search import Collection, zero_shot
from perception_search.decode import decode_file
from perception_search.encoder.reframed import Reframed
from perception_search.errors import QueryError
from perception_search.evaluate import class_names
from perception_search.evaluate.captions import Captions
from perception_search.evaluate.class_names import action_classes, imagenet_classes, templates
from perception_search.evaluate.class_sets import dataset_of, load_class_set
from perception_search.evaluate.classification import evaluate_classes
from perception_search.evaluate.embeddings import whole_rows
from perception_search.evaluate.shards import load_shards
from perception_search.frames import FrameSpec, Sampling, prepare_image

PARITY = Path(__file__).parent.parent / ".venv-parity/bin/python"
RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr("perception_search.evaluate.embeddings.cache_folder", lambda: folder)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def found(class_set, root):
    """Of each file its class's name."""
    pairs = zip(class_set.paths, class_set.labels, strict=True)
    return {str(path.relative_to(root)): class_set.class_names[label] for path, label in pairs}


# Names and prompts


def test_names_and_prompts_are_those_of_clip_benchmark():
    folder = data.folder("annotations")
    prompts = json.loads((folder / "en_zeroshot_classification_templates.json").read_text())
    assert templates("imagenet") == tuple(prompts["imagenet1k"])
    assert templates("kinetics") == tuple(prompts["k400_val"])
    assert templates("actions") == tuple(prompts["ucf101_val"]) == tuple(prompts["hmdb_test"])
    names = json.loads((folder / "en_classnames.json").read_text())["imagenet1k"]
    assert [one.name for one in imagenet_classes()] == names
    for number in (400, 600, 700):
        published = (folder / f"kinetics/label_map_k{number}.txt").read_text().split("\n")
        expected = [name.replace("(", "").replace(")", "") for name in published if name]
        assert list(action_classes(f"kinetics_{number}")) == expected


def test_subsets_of_imagenet_are_in_its_order():
    wnids = [one.wnid for one in imagenet_classes()]
    assert wnids == sorted(wnids)
    assert len(set(wnids)) == 1000
    by_name = {one.wnid: one.name for one in imagenet_classes()}
    assert (by_name["n01440764"], by_name["n15075141"]) == ("tench", "toilet paper")
    for subset in ("A", "R"):
        numbers = [one.number for one in imagenet_classes(subset)]
        assert len(numbers) == 200
        assert numbers == sorted(numbers)
    assert len(action_classes("ucf101")) == 101
    assert len(action_classes("hmdb51")) == 51


# Layouts


@pytest.mark.parametrize("folder", ["n01443537", "1", "0001", "goldfish", "GoldFish"])
@pytest.mark.parametrize("inside", ["", "val/", "ILSVRC/Data/CLS-LOC/val/"])
def test_imagenet_in_class_folders(tmp_path, folder, inside):
    touch(tmp_path, f"{inside}{folder}/a.JPEG", f"{inside}n15075141/b.JPEG", "notes/c.JPEG")
    touch(tmp_path, f"{inside}{folder}/._a.JPEG", f"{inside}{folder}/readme.txt")
    class_set = load_class_set("imagenet", tmp_path)
    assert found(class_set, tmp_path) == {
        f"{inside}{folder}/a.JPEG": "goldfish", f"{inside}n15075141/b.JPEG": "toilet paper"
    }  # fmt: skip
    assert class_set.labels == (1, 999) or class_set.labels == (999, 1)
    assert (len(class_set.class_names), len(class_set.templates)) == (1000, 80)
    with pytest.raises(QueryError, match=r"2 images of 2 of 1,000 classes .* 998 are missing: the"):
        class_set.check()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 1\nILSVRC2012_val_00000002.JPEG 999\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 85 1 499 272\n"
            "ILSVRC2012_val_00000002,n15075141 1 2 3 4 n15075141 5 6 7 8\n",
        ),
        ("imagenet_2012_validation_synset_labels.txt", "n01443537\nn15075141\n"),
    ],
)
@pytest.mark.parametrize("inside", ["", "val/"])
def test_imagenet_in_one_folder_with_labels(tmp_path, name, lines, inside):
    pictures = [f"{inside}ILSVRC2012_val_0000000{n}.JPEG" for n in (1, 2)]
    touch(tmp_path, *pictures)
    (tmp_path / name).write_text(lines)
    expected = dict(zip(pictures, ["goldfish", "toilet paper"], strict=True))
    assert found(load_class_set("imagenet", tmp_path), tmp_path) == expected
    (tmp_path / name).rename(tmp_path / "mine")
    class_set = load_class_set("imagenet", tmp_path, labels=tmp_path / "mine")
    assert found(class_set, tmp_path) == expected
    with pytest.raises(QueryError, match="2 pictures and no file of labels; expected are"):
        load_class_set("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("1\n2\n", "ILSVRC's own ids are in another order"),
        ("n01443537\n", "has 1 lines for 2 pictures"),
        ("a.jpg n01443537\n", "a class for 1 of 2 pictures; it has none for b.jpg"),
        ("a.jpg 1\nb.jpg 1000\n", "the label 1000; positions are 0 to 999"),
        ("a.jpg n01443537\nb.jpg n00000000\n", "the class n00000000, which is none"),
    ],
)
def test_wrong_labels_are_told(tmp_path, lines, said):
    touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "val.txt").write_text(lines)
    with pytest.raises(QueryError, match=said):
        load_class_set("imagenet", tmp_path)


@pytest.mark.parametrize(("dataset", "subset"), [("imagenet-a", "A"), ("imagenet-r", "R")])
def test_subsets_have_200_classes_of_their_own_order(tmp_path, dataset, subset):
    classes = imagenet_classes(subset)
    touch(tmp_path, f"{dataset}/README.txt")
    touch(tmp_path, *(f"{dataset}/{one.wnid}/{n}.jpg" for one in classes for n in range(2)))
    class_set = load_class_set(dataset, tmp_path)
    assert class_set.missing == ()
    assert class_set.class_names == tuple(one.name for one in classes)
    assert class_set.labels == tuple(n for n in range(200) for _ in range(2))
    with pytest.raises(QueryError, match=r"400 images of 200 of 200 .* the whole set has"):
        class_set.check()
    outside = next(one for one in imagenet_classes() if one not in classes)
    touch(tmp_path / "other", f"{outside.wnid}/a.jpg")
    with pytest.raises(QueryError, match=f"does not look like {dataset}: expected are folders"):
        load_class_set(dataset, tmp_path / "other")


def test_imagenet_v2_s_folders_are_positions(tmp_path):
    inside = "imagenetv2-matched-frequency-format-val"
    touch(tmp_path, f"{inside}/0/a.jpeg", f"{inside}/10/b.jpeg", f"{inside}/999/c.jpeg")
    class_set = load_class_set("imagenetv2", tmp_path)
    assert sorted(class_set.labels) == [0, 10, 999]
    assert found(class_set, tmp_path)[f"{inside}/10/b.jpeg"] == "brambling"
    with pytest.raises(QueryError, match="imagenetv2 has no splits"):
        load_class_set("imagenetv2", tmp_path, split=tmp_path / "val.csv")
    touch(tmp_path / "sketch", "sketch/n01443537/a.JPEG")
    assert load_class_set("imagenet-sketch", tmp_path / "sketch").labels == (1,)


@pytest.mark.parametrize("mappings", ["objectnet-1.0/mappings", "objectnet-1.0", ""])
def test_objectnet_s_classes_are_those_imagenet_has_too(tmp_path, mappings):
    images = "objectnet-1.0/images"
    touch(tmp_path, f"{images}/air_freshener/a.png", f"{images}/alarm_clock/b.png")
    touch(tmp_path, f"{images}/backpack/c.png", f"{images}/tv/d.png")
    labels = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "tv": "TV"}
    labels["backpack"] = "Backpack"
    with pytest.raises(QueryError, match=r"has no folder_to_objectnet_label.json, which"):
        load_class_set("objectnet", tmp_path)
    (tmp_path / mappings).mkdir(exist_ok=True)
    (tmp_path / mappings / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    overlap = {"Alarm clock": "analog clock; digital clock", "Backpack": "backpack", "TV": "tv"}
    (tmp_path / mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(overlap))
    for root in (tmp_path, tmp_path / "objectnet-1.0"):
        class_set = load_class_set("objectnet", root)
        assert class_set.class_names == ("alarm clock", "backpack", "tv")
        assert [path.name for path in class_set.paths] == ["b.png", "c.png", "d.png"]
        assert class_set.labels == (0, 1, 2)


def test_kinetics_class_folders_are_spelt_as_one_likes(tmp_path):
    spelt = {
        "massaging person's head": "massaging person's head",
        "petting_animal_(not_cat)": "petting animal not cat",
        "Air Drumming": "air drumming",
        "tai_chi": "tai chi",
    }
    touch(tmp_path, *(f"val/{folder}/x.mp4" for folder in spelt), "val/tai_chi/still.jpg")
    class_set = load_class_set("k400", tmp_path)
    files = {f"val/{folder}/x.mp4": name for folder, name in spelt.items()}
    assert found(class_set, tmp_path) == files
    assert (len(class_set.class_names), len(class_set.templates)) == (400, 28)
    with pytest.raises(QueryError, match=r"4 videos of 4 of 400 .* 396 are missing: the folder of"):
        class_set.check()
    touch(tmp_path / "other", "dancing quietly/x.mp4")
    with pytest.raises(QueryError, match=r"does not look like k400: .* found dancing quietly"):
        load_class_set("k400", tmp_path / "other")


@pytest.mark.parametrize("where", ["", "annotations/"])
def test_kinetics_splits_list_videos_with_and_without_times(tmp_path, where):
    lines = ["label,youtube_id,time_start,time_end,split", "tai chi,abc_-1,7,17,validate"]
    lines += ["air drumming,def,0,10,validate", "abseiling,ghi,1,2,validate"]
    touch(tmp_path, "val/abc_-1_000007_000017.mp4", "val/def.mp4", "val/unlisted.mp4")
    touch(tmp_path, f"{where}kinetics400_val.csv")
    (tmp_path / f"{where}kinetics400_val.csv").write_text("\n".join(lines) + "\n")
    class_set = load_class_set("k400", tmp_path)
    assert found(class_set, tmp_path) == {
        "val/abc_-1_000007_000017.mp4": "tai chi", "val/def.mp4": "air drumming"
    }  # fmt: skip
    assert class_set.missing == ("ghi_000001_000002",)
    with pytest.raises(QueryError, match="1 are missing: ghi_000001_000002"):
        class_set.check()
    split = tmp_path / "list.txt"
    split.write_text("val/def.mp4 5\n")
    listed = load_class_set("k400", tmp_path, split=split)
    assert (listed.labels, listed.missing) == ((5,), ())
    for wrong, said in (
        ("youtube_id,time_start,time_end\ndef,0,10\n", "no column label"),
        ("def.mp4 400\n", "has the class '400' for def.mp4"),
        ("def.mp4\n", "has the line 'def.mp4'"),
        ("", "lists no video"),
    ):
        split.write_text(wrong)
        with pytest.raises(QueryError, match=said):
            load_class_set("k400", tmp_path, split=split)


def test_ucf101_s_list_of_a_split(tmp_path):
    videos = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "YoYo/v_YoYo_g01_c01.avi"]
    videos += ["HandstandPushups/v_HandStandPushups_g01_c01.avi"]
    touch(tmp_path / "UCF-101", *videos, "YoYo/v_YoYo_g25_c01.avi")
    names = ["Apply Eye Makeup", "Yo Yo", "Hand Stand Pushups"]
    split = tmp_path / "testlist01.txt"
    split.write_text("\r\n".join(f"{video} 1" for video in videos))
    class_set = load_class_set("ucf101", tmp_path, split=split)
    expected = {f"UCF-101/{video}": name for video, name in zip(videos, names, strict=True)}
    assert found(class_set, tmp_path) == expected
    assert class_set.missing == ()
    assert len(class_set.templates) == 48
    assert len(load_class_set("ucf101", tmp_path).paths) == 4
    readable = tmp_path / "labels.csv"
    readable.write_text("YoYo,playing with a yo-yo\n")
    renamed = load_class_set("ucf101", tmp_path, split=split, labels=readable)
    assert renamed.class_names[-1] == "playing with a yo-yo"


def test_hmdb51_s_lists_of_a_split(tmp_path):
    touch(tmp_path / "hmdb51", "brush_hair/a.avi", "brush_hair/b.avi", "wave/c.avi")
    lists = tmp_path / "testTrainMulti_7030_splits"
    touch(lists, "brush_hair_test_split1.txt", "wave_test_split1.txt", "wave_test_split2.txt")
    (lists / "brush_hair_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \n")
    (lists / "wave_test_split1.txt").write_text("c.avi 2\nd.avi 2\n")
    class_set = load_class_set("hmdb51", tmp_path, split=lists)
    assert found(class_set, tmp_path) == {
        "hmdb51/brush_hair/b.avi": "brush hair",
        "hmdb51/wave/c.avi": "wave",
    }
    assert class_set.missing == ("d.avi",)
    with pytest.raises(QueryError, match=r"holds no <class>_test_split1.txt"):
        load_class_set("hmdb51", tmp_path, split=tmp_path / "hmdb51")


def shard(path, *samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def webp(rgb):
    out = BytesIO()
    Image.fromarray(colour(rgb)).save(out, "webp")
    return out.getvalue()


def test_shards_are_unpacked_once(tmp_path):
    root, to = tmp_path / "wds_mine", tmp_path / "pictures"
    shard(
        root / "test/0.tar",
        ("s0.cls", b"1"),
        ("s0.webp", webp(RED)),
        ("../../s1.jpg", webp(BLUE)),
        ("../../s1.cls", b"0"),
    )
    shard(root / "test/1.tar", ("s.2.webp", webp(GREEN)), ("s.cls", b"1"))
    for name, said in (
        ("test/nshards.txt", "3"),
        ("classnames.txt", "blue\nred thing\n"),
        ("zeroshot_classification_templates.txt", "a photo of {c}.\n{c}\n"),
    ):
        (root / name).write_text(said)
    with pytest.raises(QueryError, match=r"has 2 of 3 shards; missing are 2.tar"):
        load_shards(root, to, dataset="mine")
    (root / "test/nshards.txt").write_text("1\n")
    class_set = load_shards(root, to, dataset="mine")
    assert found(class_set, to) == {"0/000000.webp": "red thing", "0/000001.jpg": "blue"}
    assert class_set.templates == ("a photo of {c}.", "{c}")
    assert not (tmp_path / "s1.jpg").exists(), "names in a tar point nowhere"
    before = (to / "0/000000.webp").stat().st_mtime_ns
    assert load_shards(root, to, dataset="mine") == class_set
    with pytest.raises(QueryError, match=r"2 images of 2 of 2 classes .* whole set has 10,000"):
        load_shards(root, to, dataset="imagenetv2").check()
    assert (to / "0/000000.webp").stat().st_mtime_ns == before
    (root / "classnames.txt").write_text("blue\n")
    with pytest.raises(QueryError, match="labels 0 to 1 and 1 class names"):
        load_shards(root, to, dataset="mine")
    (root / "classnames.txt").unlink()
    with pytest.raises(QueryError, match=r"classnames.txt cannot be read"):
        load_shards(root, to, dataset="mine")
    (root / "test/0.tar").write_bytes(b"nothing")
    with pytest.raises(QueryError, match=r"0.tar cannot be read"):
        load_shards(root, to, dataset="mine")


def test_shards_with_captions_are_for_retrieval(tmp_path):
    root = tmp_path / "wds_captions"
    shard(root / "test/0.tar", ("a.jpg", webp(RED)), ("a.txt", b"red\nvery red"), ("b.jpg", b""))
    (root / "test/nshards.txt").write_text("1")
    (root / "dataset_type.txt").write_text("retrieval\n")
    with pytest.raises(QueryError, match=r"2 pictures, of which 1 have no .txt"):
        load_shards(root, tmp_path / "out", dataset="x")
    shard(root / "test/0.tar", ("a.jpg", webp(RED)), ("a.txt", b"red\nvery red"))
    found_captions = load_shards(root, tmp_path / "out", dataset="x")
    assert found_captions == Captions("webdataset", ("0/000000.jpg",), ("red", "very red"), (0, 0))


def test_folders_of_one_s_own(tmp_path):
    for name, rgb in (("red_thing", RED), ("blue", BLUE)):
        save(tmp_path / "mine" / name / "a.png", colour(rgb))
    touch(tmp_path / "mine", "empty/notes.txt", ".hidden/b.png")
    class_set = load_class_set("mine", tmp_path / "mine")
    assert found(class_set, tmp_path / "mine") == {
        "blue/a.png": "blue",
        "red_thing/a.png": "red thing",
    }
    assert (class_set.kind, len(class_set.templates), class_set.is_whole) == ("image", 80, True)
    with pytest.raises(QueryError, match=r"the prompt 'a photo' has no {c}"):
        load_class_set("mine", tmp_path / "mine", prompts=["a photo"])
    with pytest.raises(QueryError, match=r"a folder for each class.* below are neither"):
        load_class_set("mine", tmp_path / "mine/blue")
    touch(tmp_path / "mine", "blue/b.mp4")
    with pytest.raises(QueryError, match="below are pictures and videos"):
        load_class_set("mine", tmp_path / "mine")
    with pytest.raises(QueryError, match="nowhere is no folder"):
        load_class_set("mine", tmp_path / "nowhere")


# Figures


@pytest.fixture
def colours(tmp_path):
    """Nine pictures of three classes; two are of another class's colour."""
    folder = tmp_path / "colours"
    shown = {"red": [RED, RED, GREEN], "green": [GREEN, GREEN, GREEN], "blue": [BLUE, RED, BLUE]}
    for name, some in shown.items():
        for number, rgb in enumerate(some):
            tint = picture(10 * len(name) + number, (32, 32)) // 12
            save(folder / name / f"{number}.png", np.clip(colour(rgb, (32, 32)) + tint, 0, 255))
    return folder


def made(path, **how):
    return Collection.create(path, encoder=ColourEncoder(pooling="raw-frames"), **how)


def slowly(pixels, labels, names, prompts):
    """acc1, acc5 and mean per class recall, one picture at a time."""
    encoder = ColourEncoder()
    classes = []
    for name in names:
        each = [encoder.encode_text([one.replace("{c}", name)])[0] for one in prompts]
        mean = np.mean([one / np.linalg.norm(one) for one in each], axis=0)
        classes.append(mean / np.linalg.norm(mean))
    right, near = {}, []
    for one, label in zip(pixels, labels, strict=True):
        embedding = encoder.encode_frames(one[None])[0]
        logits = [100 * embedding @ some / np.linalg.norm(embedding) for some in classes]
        order = sorted(range(len(names)), key=lambda place: -logits[place])
        right.setdefault(label, []).append(order[0] == label)
        near.append(label in order[:5])
    every = [one for some in right.values() for one in some]
    return {
        "acc1": np.mean(every),
        "acc5": np.mean(near) if len(names) >= 5 else None,
        "mean_per_class_recall": np.mean([np.mean(some) for some in right.values()]),
    }


def test_figures_are_those_of_one_picture_after_the_other(colours, tmp_path):
    (colours / "red/0.png").unlink()  # so that classes differ in size
    class_set = load_class_set("colours", colours, prompts=["a {c} photo", "{c} dark", "{c}"])
    report = evaluate_classes(made(tmp_path / "c.ps"), class_set, explain=True)
    spec = ColourEncoder().frame_spec
    pixels = [prepare_image(Image.open(path), spec) for path in class_set.paths]
    for way, prompts in (("3 prompts", class_set.templates), ("bare names", ["{c}"])):
        expected = slowly(pixels, class_set.labels, class_set.class_names, prompts)
        assert expected["acc1"] == pytest.approx(6 / 8)
        figures = report.as_dict()["figures"][f"squash, {way}"]
        assert figures == pytest.approx(expected), way
    assert report.as_dict()["metrics"]["acc5"] is None, "there are three classes"
    assert report.headline["mean_per_class_recall"] != report.headline["acc1"]
    low, high = report.intervals["acc1"]
    assert low <= report.headline["acc1"] <= high


def test_a_second_run_embeds_nothing_and_another_measure_finds_the_classes(colours, tmp_path):
    class_set = load_class_set("colours", colours)
    collection = made(tmp_path / "c.ps")
    first = evaluate_classes(collection, class_set)
    assert first.num_embedded == len(class_set.paths) == 9
    version = collection.snapshot.version
    encoder = ColourEncoder(pooling="raw-frames")
    again = evaluate_classes(Collection.open(tmp_path / "c.ps", encoder=encoder), class_set)
    assert (again.num_embedded, encoder.num_frames, encoder.num_texts) == (0, 0, 0)
    assert collection.snapshot.version == version
    assert again.as_dict()["figures"] == first.as_dict()["figures"]
    assert len(collection.search("red", where="label = 'red'")) == 3
    assert "none embedded anew" in again.table()
    assert "9 embedded in" in first.table()


def test_what_is_unreadable_is_left_out_and_named(colours, tmp_path):
    (colours / "red/1.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    class_set = load_class_set("colours", colours)
    report = evaluate_classes(made(tmp_path / "c.ps"), class_set)
    assert report.num_media == 8
    assert list(report.unreadable) == [str(colours / "red/1.png")]
    for path in class_set.paths:
        path.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(QueryError, match="no file could be read; of the first: "):
        evaluate_classes(made(tmp_path / "other.ps"), class_set)


def test_a_published_figure_stands_beside_the_whole_set_only(colours, tmp_path):
    encoder = ColourEncoder(pooling="raw-frames")
    encoder._identity = replace(encoder.identity, model="PE-Core-L14-336")
    collection = Collection.create(tmp_path / "c.ps", encoder=encoder)
    class_set = replace(load_class_set("x", colours), dataset="imagenet-r", num_expected=9)
    report = evaluate_classes(collection, class_set)
    assert report.published == 95.2
    assert report.difference == pytest.approx(100 * report.headline["acc1"] - 95.2)
    assert "| 95.2 | -" in report.table()
    assert "Published is the better of squash and centre crop." in report.table()
    others = replace(class_set, templates=("{c}",))
    assert evaluate_classes(collection, others).published is None
    part = replace(class_set, num_expected=10)
    with pytest.raises(QueryError, match="the whole set has 10"):
        evaluate_classes(collection, part)
    assert evaluate_classes(collection, part, allow_missing=True).published is None
    copy = replace(
        class_set,
        dataset="k400",
        templates=templates("kinetics"),
        num_expected=None,
        missing=("gone",),
    )
    report = evaluate_classes(collection, copy, allow_missing=True)
    assert (report.published, report.num_missing) == (73.4, 1)
    few = replace(copy, class_names=(*class_set.class_names, "absent"))
    assert evaluate_classes(collection, few, allow_missing=True).published is None


def test_large_jpegs_are_decoded_in_full(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    path = tmp_path / "media/red/a.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(noise).save(path, quality=95)
    collection = made(tmp_path / "c.ps")
    evaluate_classes(collection, load_class_set("media", tmp_path / "media"))
    pixels = prepare_image(Image.open(path), FrameSpec(16, 16))
    with Image.open(path) as small:
        small.draft("", (32, 32))
        assert small.size == (50, 50), "what a fast decoder would have seen"
    raw = ColourEncoder().encode_frames(pixels[None])[0]
    [row] = collection.snapshot.rows.embeddings(np.array([0]))
    assert row == pytest.approx(raw / np.linalg.norm(raw), abs=2e-3)


def test_pictures_are_not_turned_and_centre_crop_and_border_are_told_apart(tmp_path):
    pixels = np.concatenate([colour(RED, (16, 48)), colour(BLUE, (16, 48))], axis=1)
    pixels[:, :8], pixels[:, -8:] = GREEN, GREEN
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "media/red/a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path, exif=exif)
    class_set = load_class_set("media", tmp_path / "media")
    encoder = ColourEncoder(pooling="raw-frames")
    rows = {}
    for name, spec, used in (
        ("squash", {}, encoder),
        ("crop", {"resize": "centre_crop"}, Reframed(encoder, "centre_crop")),
        ("border", {"border": 8}, Reframed(encoder, border=8)),
    ):
        collection = Collection.create(tmp_path / f"{name}.ps", encoder=used)
        evaluate_classes(collection, class_set)
        rows[name] = collection.snapshot.rows.embeddings(np.array([0]))[0]
        wanted = FrameSpec(16, 16, apply_exif=False, **spec)
        raw = encoder.encode_frames(prepare_image(Image.open(path), wanted)[None])[0]
        assert rows[name] == pytest.approx(raw / np.linalg.norm(raw), abs=2e-3), name
    assert np.abs(rows["squash"] - rows["border"]).max() > 0.01
    inner = Image.fromarray(pixels[8:-8, 8:-8])
    assert (
        prepare_image(Image.fromarray(pixels), FrameSpec(16, 16, border=8))
        == prepare_image(inner, FrameSpec(16, 16))
    ).all()
    with pytest.raises(ValueError, match="border=-1"):
        FrameSpec(16, 16, border=-1)


def test_videos_are_the_mean_of_eight_raw_frames(tmp_path):
    folder = tmp_path / "media"
    shown = {"red": [RED] * 6 + [BLUE] * 4, "green": [GREEN] * 10, "blue": [BLUE] * 7 + [RED] * 3}
    for name, frames in shown.items():
        (folder / name).mkdir(parents=True)
        write_video(folder / name / "v.mp4", [colour(rgb, (64, 64)) for rgb in frames])
    usual = load_class_set("videos", folder)
    assert (usual.kind, len(usual.templates)) == ("video", 28)
    class_set = load_class_set("videos", folder, prompts=["{c}", "very {c}"])
    collection = made(tmp_path / "c.ps")
    report = evaluate_classes(collection, class_set, explain=True)
    assert set(report.figures) == {
        f"{frames}, {prompts}"
        for frames in ("8 frames, raw frames", "1 a second, unit frames", "1 a second, raw frames")
        for prompts in ("2 prompts", "'{c}'", "bare names")
    }
    assert (report.num_media, report.headline["acc1"]) == (3, 1.0)
    encoder = ColourEncoder()
    stored = collection.snapshot.rows.embeddings(whole_rows(collection.snapshot, class_set.paths))
    for path, row in zip(class_set.paths, stored, strict=True):
        _, frames = decode_file(path, encoder.frame_spec, Sampling())
        eight = np.repeat(frames.pixels, frames.num_uniform, axis=0)
        assert len(eight) == 8
        mean = encoder.encode_frames(eight).mean(axis=0)
        assert row == pytest.approx(mean / np.linalg.norm(mean), abs=2e-3)


def test_class_vectors_go_on_where_a_run_was_stopped(colours, tmp_path, monkeypatch):
    class_set = load_class_set("colours", colours)
    collection = made(tmp_path / "c.ps")
    monkeypatch.setattr("perception_search.evaluate.embeddings._PROMPTS_AT_ONCE", 80)

    def stop(unit, done, _):
        if unit == "classes" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_classes(collection, class_set, on_progress=stop)
    encoder = ColourEncoder(pooling="raw-frames")
    evaluate_classes(Collection.open(tmp_path / "c.ps", encoder=encoder), class_set)
    assert encoder.num_texts == 80, "one class of three was left"


# The commands


def test_the_commands(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "animals"
    photographs = sample_photographs()
    for name in ("bald eagle", "dung_beetle", "dalmatian"):
        (folder / name).mkdir(parents=True)
        source = next(path for path in photographs if name.replace(" ", "_") in path.name)
        (folder / name / "a.jpg").write_bytes(source.read_bytes())
    command = ["eval", "folder", "--root", folder, "--model", "starter", "--prompt", "{c}"]
    code, out, err = run(*command, "--out", "result.json")
    assert code == 0
    assert out.startswith("animals, starter: 3 images of 3 classes; 3 embedded in")
    assert "starter encoder, not Perception Encoder" in err
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["task"] == "zeroshot_classification"
    assert result["metrics"] == {"acc1": 1.0, "acc5": None, "mean_per_class_recall": 1.0}
    code, out, _ = run(*command, "--resize", "centre-crop", "--explain-protocol")
    assert code == 0
    assert (tmp_path / "animals-centre-crop.ps").is_dir()
    assert "| centre crop, '{c}' |" in out
    code, out, _ = run(*command, "--explain-protocol", "--json")
    figures = json.loads(out)["figures"]
    assert {"squash, '{c}'", "centre crop, '{c}'"} == set(figures)
    code, _, err = run(*command, "--model", "PE-Core-B16-224")
    assert code == 1
    assert "holds embeddings of starter, not of PE-Core-B16-224" in err
    code, _, err = run("eval", "folder", "--root", folder.rename(tmp_path / "objectnet"))
    assert code == 1
    assert "objectnet is a public data set: perception-search eval objectnet" in err
    folder = (tmp_path / "objectnet").rename(tmp_path / "animals")
    code, _, err = run("eval", "imagenet", "--root", folder)
    assert code == 1
    assert "2 images of 2 of 1,000 classes" in err or "3 images of 3 of 1,000 classes" in err


def test_shards_by_the_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "wds_two"
    [eagle] = [path.read_bytes() for path in sample_photographs() if "eagle" in path.name]
    [dog] = [path.read_bytes() for path in sample_photographs() if "dalmatian" in path.name]
    shard(
        root / "test/0.tar",
        ("a.jpg", eagle), ("a.cls", b"0"), ("a.txt", b"an eagle"),
        ("b.jpg", dog), ("b.cls", b"1"), ("b.txt", b"a dog\na dalmatian"),
    )  # fmt: skip
    (root / "test/nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("eagle\ndog")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}")
    command = ["eval", "wds", "--root", root, "--model", "starter", "--json"]
    code, out, _ = run(*command)
    assert code == 0
    assert json.loads(out)["metrics"]["acc1"] == 1.0
    assert (tmp_path / "two-pictures/0/000000.jpg").read_bytes() == eagle
    (root / "dataset_type.txt").write_text("retrieval")
    code, out, _ = run(*command)
    assert code == 0
    assert json.loads(out)["metrics"]["image_retrieval_recall@1"] == 1.0
    code, out, _ = run("eval", "wds", "--root", tmp_path)
    assert code == 1


# Real photographs


def sample_photographs():
    from perception_search.assets import sample_media

    return sorted(sample_media().glob("imagenet_*.jpg"))


def true_classes():
    """The position of the class of each of foolbox's photographs, by name."""
    import tomllib

    import perception_search

    table = Path(perception_search.__file__).with_name("assets.toml").read_text()
    packages = {one["name"]: one for one in tomllib.loads(table)["package"]}
    return {
        name: int(Path(member).stem.rpartition("_")[2])
        for member, name, *_ in packages["foolbox"]["members"]
    }


def test_twenty_real_photographs_among_a_thousand_classes(run, tmp_path, monkeypatch):
    """The README's figure: the starter, one prompt."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    classes = imagenet_classes()
    for path in sample_photographs():
        folder = tmp_path / "val" / classes[true_classes()[path.name]].wnid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    command = ["eval", "imagenet", "--root", tmp_path, "--model", "starter", "--json"]
    prompt = ["--prompt", "a photo of a {c}."]
    code, _, err = run(*command, *prompt)
    assert code == 1
    assert "20 images of 19 of 1,000 classes were found; 981 are missing" in err
    code, out, err = run(*command, *prompt, "--allow-missing")
    assert code == 0
    assert "left out: 49980 files" in err
    assert json.loads(out)["metrics"]["acc1"] == pytest.approx(18 / 20)


# Other people's software


@pytest.mark.skipif(not PARITY.exists(), reason="make parity-env brings clip_benchmark")
def test_figures_are_clip_benchmark_s(tmp_path):
    rng = np.random.default_rng(0)
    classes, prompts, dim = 12, 3, 16
    texts = rng.standard_normal((classes, prompts, dim)).astype(np.float32)
    labels = rng.integers(0, classes, 300)
    media = texts[labels].mean(axis=1) + rng.standard_normal((300, dim)).astype(np.float32)
    np.savez(tmp_path / "in.npz", media=media, texts=texts, labels=labels)
    code = (
        "import json, sys, numpy, torch\n"
        "for n in ('nms', 'qnms'):\n"
        "    torch.library.define('torchvision::' + n, '(Tensor dets, Tensor scores, float "
        "iou_threshold) -> Tensor')\n"
        "from clip_benchmark.metrics import zeroshot_classification as z\n"
        "z.float = lambda array: array.item()\n"  # of arrays of one, which NumPy refuses by now
        "d = numpy.load(sys.argv[1])\n"
        "class Model:\n"
        "    def encode_text(self, rows): return torch.tensor(d['texts'])[rows[:, 0], rows[:, 1]]\n"
        "    def encode_image(self, rows): return torch.tensor(d['media'])[rows]\n"
        "tokenizer = lambda texts: torch.tensor([list(map(int, t.split())) for t in texts])\n"
        "names = [str(n) for n in range(d['texts'].shape[0])]\n"
        "class Rows(list): dataset = type('', (), {'classes': names})\n"
        "rows = Rows([(torch.arange(300), torch.tensor(d['labels']))])\n"
        "found = z.evaluate(Model(), rows, tokenizer, names,\n"
        "    ['{c} %d' % n for n in range(d['texts'].shape[1])], 'cpu', amp=False)\n"
        "print(json.dumps(found))\n"
    )
    command = [PARITY, "-c", code, str(tmp_path / "in.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = zero_shot.classification(media, zero_shot.classifier(texts), labels)
    assert 0.2 < ours["acc1"] < 0.98
    assert ours == pytest.approx(json.loads(done.stdout.splitlines()[-1]), abs=1e-6)


def test_clip_benchmark_s_names_of_data_sets_are_known():
    assert dataset_of("wds/imagenet1k") == dataset_of("wds_imagenet1k") == "imagenet"
    assert dataset_of("k400_val") == "k400"
    assert dataset_of("wds_mine") == "mine"


def test_letters_and_digits_decide_what_a_folder_means():
    assert class_names.key("Massaging_person's head (slowly)") == "massagingpersonsheadslowly"
    assert class_names.by_key(["a b", "c", "A_B"]) == {"c": 1}
