"""How well the starter finds: through the real command, collection and index, on real media."""

import csv
import json
import subprocess
import sys

import data
import pytest

from perception_search import Collection, search
from perception_search.demo import questions, run
from perception_search.recipe import recipes


def command(*arguments, given=None):
    done = subprocess.run(
        [sys.executable, "-m", "perception_search", *map(str, arguments)],
        capture_output=True,
        text=True,
        input=given,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def ranks(collection, k, right):
    """Rank of the right file for every caption (None beyond k), from one warm process."""
    captions = list(dict.fromkeys(caption for caption, _ in right))
    said = command("search", collection, "-", "-k", k, "--json", given="\n".join(captions) + "\n")
    found = {}
    for line in said.stdout.splitlines():
        hit = json.loads(line)
        name = hit["path"].rsplit("/", 1)[1]
        found.setdefault(hit["query"], {})[name] = hit["rank"]
    return [found[caption].get(name) for caption, name in right]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """345 photographs with their captions: the collection, and where they lie."""
    folder = data.folder("coco345")
    collection = tmp_path_factory.mktemp("coco") / "coco.ps"
    command("create", collection, "--model", "starter")
    done = command("ingest", collection, folder / "images", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["ingested"] == 345
    return collection, folder


@pytest.mark.slow
def test_coco_captions_find_their_photograph(coco, monkeypatch):
    collection, folder = coco
    command("index", collection, "--recipe", "hnsw")
    captions = json.loads((folder / "captions.json").read_text())
    right = [
        (" ".join(caption.split()), image["file_name"])
        for image in captions
        for caption in image["captions"]
    ]
    assert len(right) >= 1725
    found = ranks(collection, 10, right)
    recall = {k: sum(r is not None and r <= k for r in found) / len(found) for k in (1, 5, 10)}
    print("coco345 text to image", {k: round(100 * share, 1) for k, share in recall.items()})
    assert recall[10] >= 0.60
    asked = list(dict.fromkeys(caption for caption, _ in right))[:400]
    for recipe in recipes():
        assert found_by_index(collection, recipe, asked, monkeypatch) >= 0.93, recipe


@pytest.mark.slow
def test_what_one_person_wrote_is_found_by_what_another_wrote_better_with_captions(coco, tmp_path):
    """Of each photograph the second caption is stored and the first is the query."""
    collection, folder = coco
    images = json.loads((folder / "captions.json").read_text())
    table = tmp_path / "captions.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "caption"])
        rows.writerows([image["file_name"], image["captions"][1]] for image in images)
    assert command("caption", collection, "--from-csv", table).stdout == "345 captioned\n"
    photos = Collection.open(collection)
    queries = [image["captions"][0] for image in images]
    recall = {}
    for by in ("vectors", "words", "captions", "hybrid"):
        found = photos.search_many(queries, k=10, by=by)
        names = [[hit.path.name for hit in hits] for hits in found]
        ranks = [
            some.index(image["file_name"]) + 1 if image["file_name"] in some else 11
            for some, image in zip(names, images, strict=True)
        ]
        recall[by] = [sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)]
        print("coco345, one caption stored:", by, [round(100 * share, 1) for share in recall[by]])
    assert recall["words"][2] >= 0.72
    assert recall["captions"][2] >= 0.78
    assert recall["hybrid"][2] >= max(recall["vectors"][2] + 0.06, recall["words"][2])
    assert recall["hybrid"][0] >= recall["vectors"][0] + 0.1


def found_by_index(path, recipe, captions, monkeypatch):
    """The share of the ten best photographs that an index of real embeddings finds."""
    collection = Collection.open(path)
    record = collection.index(recipe, recall=0.95)
    assert min(record.recall.values()) >= 0.95
    monkeypatch.setattr(search, "SCAN_IF_FEWER_ROWS", 0)
    found = collection.search_many(captions, k=10)
    collection.index("exact")
    best = collection.search_many(captions, k=10)
    same = [
        len({h.row_id for h in some} & {h.row_id for h in all_})
        for some, all_ in zip(found, best, strict=True)
    ]
    return sum(same) / (10 * len(captions))


@pytest.mark.slow
def test_captions_find_their_video(tmp_path):
    folder = data.folder("clips")
    collection = tmp_path / "clips.ps"
    command("create", collection, "--model", "starter")
    captions = json.loads((folder / "captions.json").read_text())[::2]
    command("ingest", collection, *(folder / clip["file"] for clip in captions))
    found = ranks(collection, 5, [(clip["caption"], clip["file"]) for clip in captions])
    share = sum(rank is not None for rank in found) / len(found)
    first = sum(rank == 1 for rank in found) / len(found)
    print(f"clips: first {100 * first:.1f} %, in the first five {100 * share:.1f} %")
    assert share >= 0.85


@pytest.mark.slow
def test_at_least_eight_of_ten_demo_queries_find_the_right_picture_first(tmp_path):
    said = []
    results = run(None, "starter", tmp_path / "demo", say=said.append)
    right = questions()
    first = {query: hits[0].path.name for query, hits in results}
    print(first)
    assert sum(first[query] in right[query] for query in right) >= 8
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert page.count("<h2>") == 10
    assert page.count("data:image/jpeg;base64,") == sum(len(hits) for _, hits in results)
    assert "▶ 00:00:" in page, "a video hit shows its time"
    assert "not Perception Encoder" in page
    assert any("not Perception Encoder" in line for line in said)
    again = []
    run(None, "starter", tmp_path / "demo", say=again.append)
    assert any("unchanged" in line for line in again)


@pytest.mark.slow
def test_a_still_as_a_video_scores_as_the_photograph(tmp_path):
    import av
    from media_folder import write_video
    from PIL import Image

    from perception_search.assets import sample_media

    media = tmp_path / "media"
    media.mkdir()
    with Image.open(sample_media() / "chelsea.png") as image:
        still = image.convert("RGB").resize((448, 304))
    still.save(media / "cat.png")
    frames = [av.VideoFrame.from_image(still).to_ndarray(format="rgb24")] * 20
    write_video(media / "cat.mp4", frames, fps=2)
    photos = Collection.create(tmp_path / "cat.ps", model="starter")
    photos.ingest(media)
    for query in ("a cat", "a dog", "a cup of coffee"):
        first, second = photos.search(query, k=2)
        assert abs(first.score - second.score) < 0.01
