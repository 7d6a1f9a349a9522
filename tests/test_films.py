"""Films of captioned clips: every span is known, and what is drawn is drawn again from its seed."""

import json
from functools import partial
from pathlib import Path

import av
import data
import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import write_video

from perception_search import Collection
from perception_search.errors import MediaError, QueryError
from perception_search.evaluate.films import (
    Clip,
    Film,
    Part,
    evaluate_films,
    film_annotations,
    make_films,
    read_clips,
)
from perception_search.evaluate.moments import ALL, OWN, RANDOM

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "grey": (99, 99, 99)}


def write_clips(folder):
    """Clips of one colour each, of 1, 1.5, 2 and 2.5 seconds, at different rates and sizes."""
    folder.mkdir(exist_ok=True)
    clips = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        fps, size = 8 + 4 * number, (64 + 32 * number, 64)
        frame = np.broadcast_to(np.array(colour, np.uint8), (size[1], size[0], 3))
        seconds = 1 + number / 2
        write_video(folder / f"{name}.mp4", [frame] * round(seconds * fps), fps=fps)
        clips.append({"file": f"{name}.mp4", "caption": f" all \n {name} "})
    (folder / "captions.json").write_text(json.dumps(clips))
    return folder


def colour_at(path, seconds):
    """The name of the colour on screen at a moment."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time + 1 / 10 > seconds + 1e-6:
                mean = frame.to_ndarray(format="rgb24").mean(axis=(0, 1))
                return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())
    raise AssertionError(f"{path} ends before {seconds}")


def test_a_folder_of_clips_is_read(tmp_path):
    clips = read_clips(write_clips(tmp_path / "clips"))
    assert clips[0] == Clip(tmp_path / "clips" / "red.mp4", "all red")
    assert len(clips) == 4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("{}", "two clips or more"),
        ('[{"file": "red.mp4", "caption": "red"}]', "two clips or more"),
        ('[{"file": "red.mp4", "caption": "red"}, {"file": "red.mp4"}]', "entry 2: `file` and"),
        ('[{"file": "red.mp4", "caption": "a"}, {"file": "x", "caption": "b"}]', "no file x"),
        ("[1, 2]", "entry 1"),
    ],
)
def test_a_list_of_clips_that_cannot_be_used_says_why(tmp_path, text, named):
    folder = write_clips(tmp_path / "clips")
    if text is None:
        (folder / "captions.json").unlink()
    else:
        (folder / "captions.json").write_text(text)
    with pytest.raises(QueryError, match=named):
        read_clips(folder)


def test_every_clip_is_where_its_film_says(tmp_path):
    clips = read_clips(write_clips(tmp_path / "clips"))
    films = make_films(clips, tmp_path / "films", num_films=2, clips_per_film=3, seed=1)
    assert [film.path.name for film in films] == ["film_001.mp4", "film_002.mp4"]
    for film in films:
        assert len({part.clip for part in film.parts}) == 3
        assert film.parts[0].start_seconds == 0
        for part, after in zip(film.parts, film.parts[1:], strict=False):
            assert part.end_seconds == after.start_seconds
        for part in film.parts:
            name = part.clip.caption.removeprefix("all ")
            # the clips' lengths are 1, 1.5, 2 and 2.5 s
            length = 1 + list(COLOURS).index(name) / 2
            assert part.end_seconds - part.start_seconds == pytest.approx(length)
            assert colour_at(film.path, part.start_seconds) == name
            assert colour_at(film.path, part.end_seconds - 0.1) == name
        with av.open(str(film.path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.frames == round(film.duration_seconds * 10)


def test_the_same_seed_draws_the_same_films_and_another_does_not(tmp_path):
    clips = read_clips(write_clips(tmp_path / "clips"))
    drawn = [
        [[part.clip for part in film.parts] for film in films]
        for films in (
            make_films(clips, tmp_path / str(number), num_films=2, seed=seed)
            for number, seed in enumerate((5, 5, 6))
        )
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0][0]) == 4, "all clips where there are fewer than a film takes"


def test_films_overwrite_nothing_and_need_clips(tmp_path):
    clips = read_clips(write_clips(tmp_path / "clips"))
    make_films(clips[:2], tmp_path / "films", num_films=1)
    with pytest.raises(QueryError, match=r"film_001\.mp4 exists already"):
        make_films(clips, tmp_path / "films", num_films=1)
    with pytest.raises(ValueError):
        make_films(clips[:1], tmp_path / "other")


def test_a_clip_that_is_no_video_is_named(tmp_path):
    clips = read_clips(write_clips(tmp_path / "clips"))
    clips[2].path.write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"blue\.mp4 cannot be used"):
        make_films(clips, tmp_path / "films", num_films=1)


def test_questions_know_every_place_of_a_caption():
    dog, cat = Clip("dog.mp4", "a dog"), Clip("cat.mp4", "a cat")
    twin = Clip("twin.mp4", "a dog")
    one = Film(Path("one.mp4"), (Part(dog, 0.0, 2.0), Part(cat, 2.0, 5.0), Part(twin, 5.0, 6.0)))
    two = Film(Path("two.mp4"), (Part(dog, 0.0, 2.0),))
    questions = {(q.text, q.video): q for q in film_annotations([one, two]).queries}
    assert set(questions) == {("a dog", "one.mp4"), ("a dog", "two.mp4"), ("a cat", "one.mp4")}
    first = questions["a dog", "one.mp4"]
    assert first.windows == ((0.0, 2.0), (5.0, 6.0))
    assert first.elsewhere == (("two.mp4", ((0.0, 2.0),)),)
    assert first.duration_seconds == 6.0
    assert questions["a cat", "one.mp4"].elsewhere == ()


def test_films_are_made_ingested_and_asked_in_one_call(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    clips = []
    for number, (name, colour) in enumerate(colours.items()):
        frame = np.broadcast_to(np.array(colour, np.uint8), (64, 64, 3))
        path = write_video(tmp_path / f"{name}.mp4", [frame] * (6 + 2 * number), fps=2)
        clips.append(Clip(path, name))
    seen = []
    report = evaluate_films(
        clips,
        partial(Collection.create, encoder=ColourEncoder()),
        num_films=3,
        clips_per_film=3,
        on_progress=lambda *progress: seen.append(progress),
    )
    assert (report.num_queries, report.num_videos, report.model) == (9, 3, "colours")
    assert report.figures[OWN]["R1@0.5"] == 1
    assert report.figures[ALL]["R1@0.5"] == 1, "in whichever film it is found"
    assert report.figures[RANDOM]["R1@0.5"] < 0.5
    assert {what for what, _, _ in seen} == {"films", "files", "questions"}
    assert seen[-1] == ("questions", 9, 9)


@pytest.mark.slow
def test_captions_find_their_span_in_films_of_real_clips(tmp_path):
    clips = read_clips(data.folder("clips"))
    report = evaluate_films(
        clips,
        partial(Collection.create, model="starter"),
        num_films=2,
        clips_per_film=8,
        seed=3,
    )
    print(report.table())
    own, chance = report.figures[OWN], report.figures[RANDOM]
    assert report.num_queries == 16
    assert chance["R1@0.5"] < 0.15
    assert own["R1@0.5"] >= 0.4
    assert own["mIoU"] >= 0.4
    assert report.figures[ALL]["R1@0.5"] >= 0.3
    assert own["start error"] <= 1
    assert own["end error"] <= 1
