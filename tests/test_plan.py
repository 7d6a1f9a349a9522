"""Planning: what is counted, what is measured, what follows from it, and what the command says."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, picture, write_pictures, write_video
from PIL import Image
from synthetic import T16

from perception_search import Collection, counting, machine, media
from perception_search.counting import count
from perception_search.decode import Decoded, MediaReader
from perception_search.encoder.config import MODELS
from perception_search.encoder.perception import PerceptionEncoder
from perception_search.encoder.tokenizer import tokenize
from perception_search.frames import Frames, FrameSpec, MediaItem, Sampling
from perception_search.machine import DecodeCost, decode_cost, extrapolated
from perception_search.plan import Contents, contents_of, ingest_seconds, plan
from perception_search.published import MODEL_CARDS

SPEC = FrameSpec(16, 16)
BROKEN_PICTURE = b"\xff\xd8\xff\xe0 nothing"
BROKEN_VIDEO = b"\x1a\x45\xdf\xa3 nothing"


def moving(count, first=0):
    """That many frames (48 x 32) of which no two are alike."""
    return [picture(first + number) for number in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 pictures, two videos of 12 and 7.4 s, and what is neither."""
    folder = write_pictures(tmp_path_factory.mktemp("library"), 30)
    write_video(folder / "one.mp4", moving(60))
    write_video(folder / "two.mp4", moving(37, first=100))
    (folder / "notes.txt").write_text("words")
    (folder / ".hidden.jpg").write_bytes((folder / "0000" / "000000.jpg").read_bytes())
    (folder / "picture.txt").write_bytes((folder / "0000" / "000001.jpg").read_bytes() + b"0")
    (folder / "broken.jpg").write_bytes(BROKEN_PICTURE)
    (folder / "broken.mkv").write_bytes(BROKEN_VIDEO)
    return folder


# What is published


def test_every_model_that_can_search_has_its_scores():
    assert set(MODEL_CARDS.rows) == {n for n, model in MODELS.items() if model.text is not None}
    for name in MODEL_CARDS.rows:
        scores = MODEL_CARDS.scores(name)
        assert tuple(scores) == MODEL_CARDS.benchmarks
        assert all(0 < score < 100 for score in scores.values())
    assert MODEL_CARDS.scores("PE-Core-G14-448")["COCO T2I"] == 58.1
    assert MODEL_CARDS.scores("PE-Core-T16-384")["VTT T2V"] == 28.8
    assert MODEL_CARDS.scores("starter") == {}


# Counting


def test_a_library_is_counted_as_an_ingest_would_find_it(folder):
    library = count(folder)
    found = [file.path for file in media.find([folder])]
    kinds = [media.sniff(path.read_bytes()) for path in found]
    assert library.num_files == library.num_identified == len(found) == 36
    assert library.num_images == kinds.count("image") == 32
    assert set(library.images) == {
        p for p, kind in zip(found, kinds, strict=True) if kind == "image"
    }
    assert library.num_videos == 2
    assert {path.name: pytest.approx(seconds) for path, seconds in library.durations.items()} == {
        "one.mp4": 12.0,
        "two.mp4": 7.4,
    }
    assert library.video_seconds == pytest.approx(19.4)
    assert not library.is_sampled
    assert count(folder) == library


def test_a_file_of_its_own_is_a_library(folder):
    library = count(folder / "one.mp4")
    assert (library.num_files, library.num_images, library.num_videos) == (1, 0, 1)


def test_of_many_files_some_stand_for_the_others_with_their_extension(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "MOST_IDENTIFIED", 10)
    write_pictures(tmp_path, 60)
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text("words")
    library = count(tmp_path)
    assert (library.num_files, library.num_identified) == (100, 20)
    assert (library.num_images, len(library.images)) == (60, 10)
    assert library.is_sampled
    assert count(tmp_path).images == library.images
    assert count(tmp_path, seed=1).images != library.images
    for number in range(60):  # now six pictures in ten are called .txt
        name = f"{number // 100:04d}/{number:06d}.jpg"
        (tmp_path / name).rename(tmp_path / f"picture{number}.txt")
    mixed = count(tmp_path)
    assert mixed.num_images == 100 * len(mixed.images) / 10


def test_videos_that_were_not_asked_are_as_long_for_their_bytes(tmp_path, monkeypatch):
    short = write_video(tmp_path / "short.mp4", moving(20)).read_bytes()
    long = write_video(tmp_path / "long.mp4", moving(90)).read_bytes()
    seconds = {len(short): 4.0, len(long): 18.0}
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(short if number % 2 else long)
    monkeypatch.setattr(counting, "MOST_ASKED", 3)
    library = count(tmp_path)
    assert (library.num_videos, len(library.durations)) == (6, 3)
    assert library.is_sampled
    asked = [path.stat().st_size for path in library.durations]
    rate = sum(seconds[size] for size in asked) / sum(asked)
    assert library.video_seconds == pytest.approx(rate * 3 * (len(short) + len(long)), rel=0.01)
    monkeypatch.setattr(counting, "ASK_SECONDS", 0.0)
    assert len(count(tmp_path).durations) == 1


def test_there_may_be_nothing_to_count(tmp_path):
    library = count(tmp_path)
    assert (library.num_files, library.num_images, library.num_videos) == (0, 0, 0)
    assert library.video_seconds == 0
    with pytest.raises(FileNotFoundError, match="does not exist"):
        count(tmp_path / "nowhere")


# Measuring


@pytest.mark.parametrize("grid", ["by-time", "keyframes"])
def test_a_sample_that_is_decoded_whole_says_what_its_files_hold(folder, grid):
    library = count(folder)
    sampling = Sampling(2.0, grid=grid)
    images = decode_cost(library.images, SPEC, sampling, seconds=60)
    assert (images.num_images, images.num_videos, images.num_unreadable) == (31, 0, 1)
    assert images.image_seconds > 0
    videos = decode_cost(list(library.durations), SPEC, sampling, seconds=60)
    assert (videos.num_images, videos.num_videos, videos.num_unreadable) == (0, 2, 0)
    assert videos.video_seconds > 0
    num_off_grid, is_new = 0, []
    with MediaReader() as reader:
        for path in library.durations:
            _, frames = reader.decode(path, SPEC, sampling)
            num_off_grid += int((~frames.on_grid).sum())
            pairs = zip(frames.pixels[1:], frames.pixels[:-1], strict=True)
            is_new += [True, *(not np.array_equal(one, before) for one, before in pairs)]
    assert videos.frames_off_grid == num_off_grid / 2
    assert videos.new_share == pytest.approx(np.mean(is_new))


def test_a_video_that_stands_still_is_embedded_once(tmp_path):
    path = write_video(tmp_path / "still.mp4", [colour((200, 30, 30))] * 100)
    cost = decode_cost([path], SPEC, Sampling(), seconds=60)
    assert cost.new_share < 0.1


def test_without_time_one_file_is_decoded_all_the_same(folder):
    library = count(folder)
    pictures = [path for path in library.images if path.name != "broken.jpg"]
    assert 1 <= decode_cost(pictures, SPEC, Sampling(), seconds=0, num_workers=1).num_images < 31
    assert decode_cost([], SPEC, Sampling(), seconds=0) == DecodeCost()


def test_the_time_of_a_file_counts_from_when_it_was_begun(monkeypatch):
    """By hand: two workers, two pictures each, and of a long video the first of its frames."""
    clock = [100.0]
    monkeypatch.setattr(machine.time, "monotonic", lambda: clock[0])
    paths = [Path(name) for name in "abcd"]
    sample = machine._Sample(paths, 2, 10.0, frames_per_second=2.0)
    taken = sample.taken()

    def at(seconds, *calls):
        clock[0] = 100.0 + seconds
        return [call() for call in calls]

    def claim(path, kind):
        return lambda: sample.claim(path, "", kind)

    def frames(num_points, first=0):
        return Frames(
            np.zeros((num_points, 3, 16, 16), np.uint8),
            (first + np.arange(num_points)) / 2,
            np.ones(num_points, bool),
            np.zeros(num_points, np.int64),
        )

    def news(path, some, kind=None, duration_seconds=None):
        item = kind and MediaItem(path, kind, "", 0, 0, 1, 1, duration_seconds)
        return lambda: sample._note(Decoded(path, 1, item, some, last=item is not None))

    a, b, c, d = paths
    at(0, lambda: next(taken), lambda: next(taken))
    at(1, claim(a, "image"), claim(b, "image"))  # a second to start the workers
    at(2, news(a, frames(1), "image"), lambda: next(taken))
    at(3, claim(c, "image"))
    at(4, news(b, frames(1), "image"), lambda: next(taken))
    at(5, news(c, frames(1), "image"), claim(d, "video"))
    at(7, news(d, frames(16)))
    pictures = (2 - 1) + (4 - 1) + (5 - 2)
    # one chunk has come, of eight seconds, and another is decoded by then
    assert sample.cost(10) == DecodeCost(
        image_seconds=pictures / 3,
        video_seconds=(7 - 4) / (7.5 + 8),
        num_images=3,
        num_videos=1,
        frames_off_grid=0.0,
        new_share=10 / 19,
    )
    at(8, news(d, frames(4, first=16), "video", 10.0))
    assert sample.cost(23).video_seconds == (8 - 4) / 10
    at(11)
    assert next(taken, None) is None


def test_blocks_that_were_not_run_take_as_long_as_those_that_were():
    around, block = 3.0, 0.25
    of = [around + sum(block for _ in range(depth)) for depth in range(51)]
    for depth, some in ((12, 12), (24, 10), (50, 2)):
        assert extrapolated(of[1], of[some], some, depth) == pytest.approx(of[depth])
    assert extrapolated(1.0, 0.9, 2, 50) == 1.0  # by chance the deeper one was faster


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_is_timed_computes_as_the_model_does(t16_files, dtype):
    weights = t16_files["safetensors"]
    real = PerceptionEncoder(T16.name, weights=weights, device="cpu", dtype=dtype)
    shallow = machine._ShallowEncoder(real, 2, 3)
    pixels = np.zeros((1, 3, 384, 384), np.uint8)
    assert shallow.encode_frames(pixels).shape == real.encode_frames(pixels).shape
    for encoder in (real, shallow):
        encoder.encode_text(["a dog"])
        assert encoder.encode_text(["a dog"]).shape == (1, 512)
    for mine, theirs, depth in ((shallow.vision, real.vision, 2), (shallow.text, real.text, 3)):
        assert len(mine.transformer.resblocks) == depth
        parts = [
            [(name, type(part)) for name, part in tower.transformer.resblocks[0].named_modules()]
            for tower in (mine, theirs)
        ]
        assert parts[0] == parts[1]
        dtypes = [{p.dtype for p in tower.parameters()} for tower in (mine, theirs)]
        assert dtypes[0] <= dtypes[1]
    assert int(tokenize([machine.QUERY], 32).argmax()) + 1 == 10


def test_costs_are_times():
    cost = machine.encode_cost(PerceptionEncoder(T16.name, device="cpu"), seconds=0.01)
    assert cost.frame_seconds > 0
    assert cost.text_seconds > 0
    assert machine.score_cost(512) > 0


# Putting it together


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(2.5), Sampling(grid="keyframes"), Sampling(2.0, skip_stills=True)],
)
def test_a_collection_holds_what_was_foreseen(folder, tmp_path, sampling):
    encoder = ColourEncoder()
    photos = Collection.create(tmp_path / "photos.ps", encoder=encoder, sampling=sampling)
    report = photos.ingest(folder)
    assert report.ingested == 33
    tables = {file.table: file.num_rows for file in photos.snapshot.manifest.files}
    library = count(folder)
    images = decode_cost(library.images, SPEC, sampling, seconds=60)
    videos = decode_cost(list(library.durations), SPEC, sampling, seconds=60)
    contents = contents_of(library, sampling, [images], videos)
    info = photos.info()
    assert (contents.num_images, contents.num_videos) == (info["images"], info["videos"]) == (31, 2)
    assert contents.video_seconds == pytest.approx(info["video_seconds"])
    assert contents.num_points == tables["grid"]
    assert contents.num_rows + contents.num_videos == info["rows"] == tables["rows"]
    assert contents.num_frames == encoder.num_frames


def test_a_collection_takes_the_disk_that_was_foreseen(tmp_path):
    """Of enough files that what every Parquet file begins and ends with counts little."""
    media_folder = write_pictures(tmp_path / "media", 400, size=(16, 16))
    for number in range(20):
        frames = [picture(number * 1000 + frame, (16, 16)) for frame in range(40)]
        write_video(media_folder / f"{number}.mp4", frames, fps=1)
    encoder = ColourEncoder(dim=256)
    photos = Collection.create(tmp_path / "photos.ps", encoder=encoder)
    photos.ingest(media_folder)
    contents = Contents(400, 20, 800.0, 800, 80, 0)
    assert photos.info()["rows"] == 500
    assert contents.disk_bytes(256) == pytest.approx(photos.info()["size_bytes"], rel=0.1)


def test_a_part_stands_for_the_whole():
    durations = {Path("a"): 30.5, Path("b"): 9.0}
    library = counting.Library(5000, 1000, 400, 7900.0, 50, (), durations, True)
    images = [DecodeCost(num_images=30, num_unreadable=10), DecodeCost(num_images=60)]
    videos = DecodeCost(num_videos=3, num_unreadable=1, frames_off_grid=6.0, new_share=0.5)
    contents = contents_of(library, Sampling(2.0), images, videos)
    assert contents == Contents(
        num_images=900,
        num_videos=300,
        video_seconds=5925.0,
        num_points=150 * (61 + 18),  # 5925 s are 150 times these two videos
        num_segments=150 * (4 + 1),
        num_frames=900 + (150 * (61 + 18) + 300 * 6) // 2,
    )
    assert contents.num_rows == 900 + 750
    assert contents.num_scored == 900 + 750 + 150 * (61 + 18) * 10 / 1200
    rows = 900 + 750 + 300 + 11850
    assert contents.disk_bytes(512) == 1024 * rows + 180 * 1200 + 12 * (750 + 11850)


def test_decoding_takes_time_from_a_processor_but_not_from_a_gpu():
    assert ingest_seconds(3.0, 5.0, share_cores=True) == 8.0
    assert ingest_seconds(3.0, 5.0, share_cores=False) == 5.0
    assert ingest_seconds(7.0, 5.0, share_cores=False) == 7.0


@pytest.fixture
def quick(monkeypatch):
    """Measurements that take a moment."""
    for name in ("IMAGES_SECONDS", "VIDEOS_SECONDS"):
        monkeypatch.setattr(machine, name, 5.0)
    monkeypatch.setattr(machine, "encode_cost", lambda _: machine.EncodeCost(0.5, 0.02))
    monkeypatch.setattr(machine, "score_cost", lambda dim: dim * 1e-6)


def test_a_plan_is_the_sum_of_its_parts(folder, quick):
    steps = []
    made = plan(folder, device="cpu", on_progress=lambda *step: steps.append(step))
    assert [each.model for each in made.models] == list(MODEL_CARDS.rows)
    assert steps == [(n + 1, 10) for n in range(10)]  # videos, four sizes, five models
    assert (made.num_decoded, made.num_unreadable) == (33, 1)
    assert (made.contents.num_images, made.contents.num_videos) == (31, 2)
    for each in made.models:
        dim = MODELS[each.model].dim
        assert each.encode_seconds == 0.5 * made.contents.num_frames
        assert each.ingest_seconds == each.decode_seconds + each.encode_seconds
        assert each.disk_bytes == made.contents.disk_bytes(dim)
        assert each.query_ms == pytest.approx(20 + 1e-3 * dim * made.contents.num_scored)
        assert each.scores == MODEL_CARDS.scores(each.model)
    assert made.overnight == "PE-Core-G14-448"


def test_the_largest_model_that_ends_overnight_is_named(folder, quick, monkeypatch):
    hours = {"PE-Core-T16-384": 1, "PE-Core-S16-384": 7.5, "PE-Core-B16-224": 9}

    def cost(encoder):
        return machine.EncodeCost(hours.get(encoder.config.name, 100) * 3600 / 57, 0.02)

    monkeypatch.setattr(machine, "encode_cost", cost)
    made = plan(folder, device="cpu")
    assert made.contents.num_frames == 57
    assert made.overnight == "PE-Core-S16-384"
    names = ["PE-Core-B-16", "facebook/PE-Core-B16-224", "PE-Core-L14-336"]
    made = plan(folder, models=names, device="cpu")
    assert [each.model for each in made.models] == ["PE-Core-B16-224", "PE-Core-L14-336"]
    assert made.overnight is None


# The command


@pytest.fixture
def run(run):
    """Run `plan` in this process: (exit code, stdout, stderr)."""
    return functools.partial(run, "plan")


def test_the_command_measures_without_weights(folder, run, monkeypatch, tmp_path):
    monkeypatch.setenv("PERCEPTION_SEARCH_WEIGHTS", str(tmp_path))
    code, out, _ = run(folder, "--model", "PE-Core-T16-384", "--json")
    assert code == 0
    model, basis = (json.loads(line) for line in out.splitlines())
    assert model["model"] == basis["overnight"] == "PE-Core-T16-384"
    assert model["ingest_seconds"] == model["decode_seconds"] + model["encode_seconds"] > 0
    assert model["ingest_hours"] == model["ingest_seconds"] / 3600
    assert model["disk_bytes"] > 2 * 512 * 33
    assert model["query_ms"] > 0
    assert model["scores"]["IN-1k"] == 62.1
    assert 0 < basis["num_images"] <= 32  # as many as there was time for
    assert basis["num_videos"] == 2
    assert (basis["num_files"], basis["num_identified"], basis["is_sampled"]) == (36, 36, False)
    assert basis["sampling"]["frames_per_second"] == 1.0


def test_the_table_stands_above_what_it_rests_on(folder, run, quick, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    code, out, _ = run(folder, "--device", "cpu", "--dtype", "float32")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("model            ingest")
    assert lines[0].endswith("query  IN-1k  COCO T2I  VTT T2V")
    assert [line.split()[0] for line in lines[1:6]] == list(MODEL_CARDS.rows)
    assert lines[5].split()[-3:] == ["85.4", "58.1", "51.2"]
    assert lines[6] == (
        f"{folder} holds 31 pictures and 2 videos of 19 s in all: 36 of 36 files were looked at, 2 "
        "videos asked for their length, 34 files decoded, of which 1 cannot be read."
    )
    assert lines[7] == "Measured on cpu in float32, with random weights."
    assert lines[8:] == ["The largest that ends overnight, in 8 hours: PE-Core-G14-448."]
    monkeypatch.setattr(os, "getloadavg", lambda: (999.0, 0.0, 0.0))
    assert "(a load of 999.0 on" in run(folder, "--device", "cpu")[1]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5969, "99 min"),
        (6000, "1.7 h"),
        (172_000, "47.8 h"),
        (172_800, "2.0 days"),
    ],
)
def test_times_are_readable(seconds, shown):
    from perception_search.commands.plan import _readable_seconds

    assert _readable_seconds(seconds) == shown


def test_mistakes_are_answered_in_a_sentence(run, quick, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(BROKEN_PICTURE)
    (tmp_path / "broken" / "b.mkv").write_bytes(BROKEN_VIDEO)
    Image.fromarray(picture(1)).save(tmp_path / "fine.png")
    for arguments, sentence in (
        (["nowhere"], "does not exist"),
        (["empty"], "no picture and no video that can be read, among 0 files"),
        (["broken"], "no picture and no video that can be read, among 2 files"),
        (["fine.png", "--model", "CLIP-B32"], "PE-Core-B16-224"),
        (["fine.png", "--model", "PE-Spatial-B16-512"], "no text tower"),
        (["fine.png", "--model", "starter"], "no released model"),
        (["fine.png", "--device", "tpu"], "one of auto, cpu"),
        (["fine.png", "--frames-per-second", "0"], "must be > 0"),
    ):
        code, out, err = run(tmp_path / arguments[0], *arguments[1:])
        assert (code, out) == (1, "")
        assert sentence in err
        assert len(err.strip().splitlines()) == 1


def children_of(pid):
    """Processes that one has started, by /proc; empty where there is none."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for file in files for child in file.read_text().split()}


def is_group_left(pid):
    """Whether any process of the group runs that this one leads."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("while_decoding", [True, False])
def test_ctrl_c_ends_it_and_all_its_processes(folder, while_decoding):
    command = [sys.executable, "-m", "perception_search", "plan", str(folder)]
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
    while not children_of(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)  # until it decodes
    num_idle = 0
    while not while_decoding and num_idle < 10 and time.monotonic() < deadline:
        num_idle = 0 if children_of(child.pid) else num_idle + 1
        time.sleep(0.05)  # until it times blocks
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to its workers too
    out, err = child.communicate(timeout=60)
    assert child.returncode in (130, -signal.SIGINT), err  # the same to a shell
    assert "Traceback" not in err
    assert out == ""
    while is_group_left(child.pid) and time.monotonic() < deadline + 60:
        time.sleep(0.05)  # they end a moment later
    assert not is_group_left(child.pid)
