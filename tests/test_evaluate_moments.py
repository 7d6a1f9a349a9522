"""Moment evaluation: the real annotation files through an oracle and chance; damage by its line."""

import json
import shutil
from pathlib import Path

import data
import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import write_video

from perception_search import Collection
from perception_search.errors import QueryError
from perception_search.evaluate.annotations import Annotations, MomentQuery, load_annotations
from perception_search.evaluate.moments import (
    ALL,
    OWN,
    RANDOM,
    RANDOM_ALL,
    WHOLE,
    Found,
    coverage,
    evaluate_moments,
    random_windows,
    score_moments,
)

QV = {"qid": 1, "query": "a dog", "vid": "v1", "duration": 20, "relevant_windows": [[2, 8]]}
DIDEMO = {
    "annotation_id": 1,
    "description": "a dog",
    "video": "v1.mov",
    "num_segments": 6,
    "times": [[1, 1], [1, 1], [1, 2], [0, 0]],
}


def written(tmp_path, *entries, array=False):
    path = tmp_path / "annotations"
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("[" + ",\n".join(lines) + "]" if array else "\n".join(lines) + "\n")
    return path


def oracle(query):
    """The right answers; for DiDeMo what most annotators chose, first."""
    windows = sorted(query.windows)
    if query.chosen:
        moment = max(set(query.chosen), key=query.chosen.count)
        windows = [(moment[0] * 5.0, moment[1] * 5.0 + 5.0)]
    return [Found(query.video, *window, 1.0) for window in windows]


def question(number=1, *, video="v", windows=((2.0, 8.0),), duration=20.0, **more):
    return MomentQuery(str(number), f"query {number}", video, duration, windows, **more)


# Layouts


def test_both_real_files_are_recognised_by_what_they_hold():
    folder = data.folder("annotations")
    highlights = load_annotations(folder / "qvhighlights_val.jsonl")
    assert (highlights.layout, len(highlights.queries), len(highlights.videos)) == (
        "qvhighlights",
        1550,
        1519,
    )
    first = highlights.queries[0]
    assert (first.video, first.windows) == ("NUsG9BgSes0_210.0_360.0", ((82.0, 150.0),))
    didemo = load_annotations(folder / "didemo_val.json")
    assert (didemo.layout, len(didemo.queries), len(didemo.videos)) == ("didemo", 4180, 1094)
    first = didemo.queries[0]
    assert first.chosen == ((1, 1), (1, 1), (1, 1), (0, 0))
    assert first.windows == ((5.0, 10.0),), "only one moment was chosen twice"


@pytest.mark.parametrize("array", [False, True])
def test_the_layout_is_told_by_fields_in_an_array_and_in_lines(tmp_path, array):
    other = QV | {"qid": "two", "query": " a \n cat "}
    loaded = load_annotations(written(tmp_path, QV, other, array=array))
    assert loaded.layout == "qvhighlights"
    assert [query.query_id for query in loaded.queries] == ["1", "two"]
    assert loaded.queries[1].text == "a cat"
    assert load_annotations(written(tmp_path, DIDEMO, array=array)).layout == "didemo"


def test_didemo_windows_are_what_two_annotators_agree_on(tmp_path):
    split = DIDEMO | {"annotation_id": 2, "times": [[0, 0], [1, 1], [2, 2]], "num_segments": 5}
    first, second = load_annotations(written(tmp_path, DIDEMO, split)).queries
    assert first.windows == ((5.0, 10.0),)
    assert first.duration_seconds == 30
    assert second.windows == ((0.0, 5.0), (5.0, 10.0), (10.0, 15.0)), "no two agree: all"
    assert second.duration_seconds == 25


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"relevant_windows": []}, "relevant_windows"),
        ({"relevant_windows": [[8, 2]]}, r"\[8, 2\]"),
        ({"relevant_windows": [[0, 90]]}, "20 s"),
        ({"relevant_windows": [[1]]}, r"\[1\]"),
        ({"relevant_windows": [["a", 2]]}, "'a'"),
        ({"query": "  "}, "query"),
        ({"vid": 7}, "vid"),
        ({"duration": None}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"qid": None}, "qid"),
        ({"qid": 1}, "first on line 1"),
    ],
)
def test_a_malformed_question_is_named_with_its_line(tmp_path, change, named):
    path = written(tmp_path, QV, "", QV | {"qid": 2} | change)
    with pytest.raises(QueryError, match=rf"1 of 2 entries.*line 3: .*{named}"):
        load_annotations(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"times": [[0, 6], [0, 0], [0, 0]]}, "times"),
        ({"times": [[2, 1], [0, 0], [0, 0]]}, "times"),
        ({"times": [[0, 0], [0, 0]]}, "2 annotators"),
        ({"num_segments": 1}, "num_segments"),
        ({"num_segments": 9}, "num_segments"),
    ],
)
def test_a_malformed_didemo_entry_is_named_with_its_place(tmp_path, change, named):
    path = written(tmp_path, DIDEMO, DIDEMO | {"annotation_id": 2} | change, array=True)
    with pytest.raises(QueryError, match=rf"line 2, entry 2: .*{named}"):
        load_annotations(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no annotations"),
        ("[]", "no annotations"),
        ("hello", "line 1 is not JSON"),
        (json.dumps(QV) + '\n{"qid": 2,', "line 2 is not JSON"),
        ("[" + json.dumps(QV), "does not go on after line 1, entry 1"),
        ('{"a": 1}', r"fields \['a'\]"),
        ("3", "of no object"),
        (json.dumps({"qid": 1, "query": "a", "vid": "b"}), "validation split"),
        ("\n".join([json.dumps(QV), *["4"] * 9]), "9 of 10 .* and 4 more"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, text, named):
    path = tmp_path / "annotations"
    path.write_text(text)
    with pytest.raises(QueryError, match=named):
        load_annotations(path)


def test_a_file_that_is_not_there_or_no_text_says_so(tmp_path):
    with pytest.raises(QueryError, match="cannot be read"):
        load_annotations(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(QueryError, match="UTF-8"):
        load_annotations(tmp_path / "binary")


# Scoring, at true size


def test_an_oracle_and_chance_on_qvhighlights():
    annotations = load_annotations(data.folder("annotations") / "qvhighlights_val.jsonl")
    report = score_moments(annotations, oracle, oracle, k=30)
    for column in (OWN, ALL):
        for measure in ("R1@0.5", "R1@0.7", "mIoU"):
            assert report.figures[column][measure] == 1
    # 19 questions have more than ten true windows, and only ten predictions count
    assert 0.99 < report.figures[OWN]["mAP"] < 1
    assert report.figures[OWN]["start error"] == 0
    # chance by other means: the whole video has IoU = longest true window / duration
    longest = [
        max(end - start for start, end in query.windows) / query.duration_seconds
        for query in annotations.queries
    ]
    whole = report.figures[WHOLE]
    assert whole["mIoU"] == pytest.approx(np.mean(longest))
    assert whole["R1@0.5"] == pytest.approx(np.mean(np.array(longest) >= 0.5))
    assert 0.15 < report.figures[RANDOM]["R1@0.5"] < 0.25
    print(report.table())


def test_an_oracle_and_chance_on_didemo():
    annotations = load_annotations(data.folder("annotations") / "didemo_val.json")
    report = score_moments(annotations, oracle)
    own, random = report.figures[OWN], report.figures[RANDOM]
    # people disagree: the best possible is where three chose the same
    agreed = [max(map(query.chosen.count, query.chosen)) >= 3 for query in annotations.queries]
    assert own["DiDeMo Rank@1"] == pytest.approx(np.mean(agreed))
    assert own["R1@0.5"] == 1
    # the paper's chance on its test set: 3.75, 22.50, 22.64
    assert random["DiDeMo Rank@1"] == pytest.approx(0.0375, abs=0.01)
    assert random["DiDeMo Rank@5"] == pytest.approx(0.2250, abs=0.02)
    assert random["DiDeMo mIoU"] == pytest.approx(0.2264, abs=0.01)
    print(report.table())


def test_a_chance_finder_scores_as_the_chance_beside_it():
    annotations = load_annotations(data.folder("annotations") / "qvhighlights_val.jsonl")
    report = score_moments(annotations, random_windows(10, seed=99))
    for measure, (low, high) in report.intervals[OWN].items():
        wider = (high - low) / 2
        assert low - wider < report.figures[RANDOM][measure] < high + wider, measure


# Scoring, by hand


def test_measures_of_two_questions_worked_out_by_hand():
    queries = (question(1), question(2, windows=((0.0, 4.0), (10.0, 20.0))))
    answers = {
        "1": [Found("v", 3, 8, 0.9)],  # 5 of 6 s: IoU 5/6; starts 1 s late
        "2": [Found("v", 10, 14, 0.8), Found("v", 0, 4, 0.7)],  # IoU 4/10: no hit
    }
    report = score_moments(
        Annotations("two", "qvhighlights", queries), lambda query: answers[query.query_id]
    )
    own = report.figures[OWN]
    assert own["R1@0.5"] == 0.5
    assert own["mIoU"] == pytest.approx((5 / 6 + 0.4) / 2)
    # of the second question the second window is right, at precision 1/2, recall 1/2: AP 1/4
    assert own["mAP@0.5"] == pytest.approx((1 + 1 / 4) / 2)
    assert own["mAP@0.75"] == pytest.approx((1 + 1 / 4) / 2)
    assert own["mAP"] == pytest.approx((7 / 10 + 1 / 4) / 2), "5/6 reaches 7 of the 10 thresholds"
    assert (own["start error"], own["end error"]) == (1, 0), "of the one hit"
    assert [answer.iou for answer in report.answers] == pytest.approx([5 / 6, 0.4])
    assert set(report.figures) == {OWN, RANDOM, WHOLE}


def test_over_all_videos_only_the_right_one_counts_and_what_is_elsewhere_too():
    query = question(video="v", elsewhere=(("w", ((0.0, 5.0),)),))
    annotations = Annotations("one", "films", (query,))

    def measured(*found):
        report = score_moments(annotations, oracle, lambda _: [Found(*one, 1.0) for one in found])
        return report.figures[ALL]

    wrong, right, other = ("x", 2, 8), ("v", 2, 8), ("w", 0, 5)
    assert measured(right)["R1@0.5"] == 1
    assert measured(other)["R1@0.5"] == 1
    assert measured(("w", 2, 8))["R1@0.5"] == 0, "the right times of another video"
    first_wrong = measured(wrong, right)
    assert (first_wrong["R1@0.5"], first_wrong["R10@0.5"]) == (0, 1)
    assert first_wrong["right video first"] == 0
    assert measured(*[wrong] * 10, right)["R10@0.5"] == 0
    assert measured()["mIoU"] == 0


def test_chance_over_all_videos_is_that_of_one_divided_by_their_number():
    queries = tuple(question(n, video=f"v{n}", windows=((0.0, 20.0),)) for n in range(4))
    report = score_moments(Annotations("four", "qvhighlights", queries), oracle, oracle)
    # as long as the video, a window is right wherever the video is: one of four
    assert report.figures[RANDOM]["R1@0.5"] == 1
    random = report.figures[RANDOM_ALL]
    assert random["R1@0.5"] == random["right video first"] == pytest.approx(1 / 4, abs=0.05)
    assert random["R10@0.5"] == pytest.approx(1 - 0.75**10, abs=0.05)


def test_finding_nothing_scores_nothing_and_has_no_errors():
    report = score_moments(Annotations("one", "films", (question(),)), lambda _: [])
    assert report.figures[OWN]["mIoU"] == 0
    assert report.figures[OWN]["start error"] is None
    assert report.answers[0].start_seconds is None


def test_a_report_is_json_and_a_table():
    annotations = Annotations("films", "films", (question(),))
    report = score_moments(annotations, oracle, oracle, model="starter", num_missing_videos=2)
    fields = json.loads(json.dumps(report.as_dict()))
    assert fields["figures"][OWN]["R1@0.5"] == 1
    assert fields["intervals"][OWN]["R1@0.5"] == [1, 1]
    assert "answers" not in fields
    table = report.table()
    assert "1 questions about 1 videos, 2 more videos are missing; starter" in table
    assert "100.0 [100.0, 100.0]" in table
    assert len({len(line) for line in table.splitlines() if line.startswith(("R1", "mIoU"))}) == 1


def test_there_must_be_something_to_ask():
    with pytest.raises(ValueError):
        score_moments(Annotations("none", "films", ()), oracle)
    with pytest.raises(ValueError):
        score_moments(Annotations("one", "films", (question(),)), oracle, k=0)


# A collection


class Library:
    """As much of a collection as coverage and asking need: names, contents, canned answers."""

    path = Path("lib.ps")

    def __init__(self, *files):
        self.files = files

    def items(self, where):
        import pandas as pd

        assert where == "kind = 'video'"
        return pd.DataFrame(self.files, columns=["content_hash", "paths"])


def covered(library, *videos):
    queries = tuple(question(n, video=video) for n, video in enumerate(videos))
    return coverage(library, Annotations("some", "qvhighlights", queries))


def test_videos_are_found_by_name_with_and_without_extension():
    library = Library(
        ("a", ["/m/NUs_60.0_210.0.mp4"]), ("b", ["/m/35@N_1.mov", "/copy/x.mov"]), ("c", ["/m/c"])
    )
    names = ("NUs_60.0_210.0", "35@N_1.mov", "x.avi", "c", "NUs_60.0_210")
    assert covered(library, *names) == (
        {"NUs_60.0_210.0": "a", "35@N_1.mov": "b", "x.avi": "b", "c": "c"},
        ("NUs_60.0_210",),
    )


def test_an_exact_name_comes_before_another_extension_and_two_contents_are_refused():
    library = Library(("a", ["/m/dog.mp4"]), ("b", ["/m/dog.avi"]))
    assert covered(library, "dog.avi").held == {"dog.avi": "b"}
    with pytest.raises(QueryError, match=r"2 different videos .* called dog"):
        covered(library, "dog")


def test_missing_videos_are_counted_and_named_before_anything_is_asked():
    library = Library(("a", ["/m/v0.mp4"]))
    queries = tuple(question(n, video=f"v{n}") for n in range(9))
    annotations = Annotations("nine", "qvhighlights", queries)
    with pytest.raises(QueryError, match=r"8 of 9 videos .* v1, v2, v3, v4, v5 and 3 more"):
        evaluate_moments(library, annotations)
    with pytest.raises(QueryError, match="9 of 9"):
        evaluate_moments(Library(), annotations, allow_missing=True)


def two_colours(path, first, second):
    """A video of 9 s of one colour and 8 s of another."""
    frames = [
        np.broadcast_to(np.array(colour, np.uint8), (64, 64, 3))
        for colour, seconds in ((first, 9), (second, 8))
        for _ in range(2 * seconds)
    ]
    return write_video(path, frames, fps=2)


def test_a_collection_is_asked_within_each_video_and_over_all(tmp_path):
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    media = tmp_path / "media"
    media.mkdir()
    two_colours(media / "one_0.0_17.0.mp4", red, blue)
    two_colours(media / "two.mp4", green, blue)
    shutil.copy(media / "two.mp4", media / "twin.mp4")
    library = Collection.create(tmp_path / "lib.ps", encoder=ColourEncoder())
    library.ingest(media)

    def entry(number, query, video, window):
        return {
            "qid": number,
            "query": query,
            "vid": video,
            "duration": 17,
            "relevant_windows": [window],
        }

    path = written(
        tmp_path,
        entry(1, "red", "one_0.0_17.0", [0, 9]),
        entry(2, "green", "two", [0, 9]),
        entry(3, "red", "two", [9, 17]),  # red is elsewhere: what is found first is not this
        entry(4, "red", "three", [0, 9]),
        entry(5, "green", "twin", [0, 9]),  # a copy of two
    )
    annotations = load_annotations(path)
    with pytest.raises(QueryError, match=r"1 of 4 videos .* three\. Ingest them, or leave"):
        evaluate_moments(library, annotations)
    asked = []
    report = evaluate_moments(
        library,
        annotations,
        allow_missing=True,
        on_progress=lambda *progress: asked.append(progress),
    )
    assert asked == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (report.num_queries, report.num_videos, report.num_missing_videos) == (4, 3, 1)
    assert report.model == "colours"
    first, second, _, twin = report.answers
    for answer in (first, second, twin):  # to a frame of the grid
        assert (answer.start_seconds, answer.end_seconds) == pytest.approx((0, 9), abs=1)
    everywhere = report.figures[ALL]
    assert everywhere["R1@0.5"] == everywhere["right video first"] == pytest.approx(3 / 4)
    alone = evaluate_moments(library, annotations, allow_missing=True, everywhere=False)
    assert ALL not in alone.figures
    assert alone.figures[OWN] == report.figures[OWN]
