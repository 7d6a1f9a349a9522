import html
import json
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import data
import pytest
from media_files import write_video

from perception_search import durable, export
from perception_search.errors import ExportError, MissingExtra
from perception_search.export.report import WRITTEN, publish
from perception_search.hits import Hit

otio = pytest.importorskip("opentimelineio")

NASTY = 'goal --> <b>"celebration"</b> & more\nWEBVTT\x1b[31m'
NTSC = Fraction(30000, 1001)
WRITERS = {
    "cuts.edl": export.write_edl,
    "cuts.otio": export.write_otio,
    "chapters.vtt": export.write_vtt,
    "moments.jsonl": export.write_jsonl,
}


def hit(path, start=None, end=None, kind="video", score=0.3, **more):
    return Hit(1, Path(path), kind, score, start, end, **more)


def write_at(path, rate, num_frames, timecode=None):
    """A video of grey frames at any rate."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if timecode:
            stream.metadata["timecode"] = timecode
        for index in range(num_frames):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return Path(path)


def clips_of(path, **options):
    """The one track of a timeline, as OpenTimelineIO reads it."""
    timeline = otio.adapters.read_from_file(str(path), **options)
    (track,) = timeline.tracks
    return timeline, list(track)


def span(clip):
    """A clip's (first frame, number of frames, rate)."""
    start, duration = clip.source_range.start_time, clip.source_range.duration
    assert start.rate == duration.rate
    return start.value, duration.value, start.rate


def seconds_of(stamp):
    hours, minutes, seconds = stamp.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


@pytest.mark.parametrize("rate", [24, 25, 30, NTSC, Fraction(24000, 1001), 60])
def test_an_edit_list_is_read_back_frame_by_frame(tmp_path, rate):
    rate = Fraction(rate)
    first = write_at(tmp_path / "first.mp4", rate, round(4 * rate))
    second = write_at(tmp_path / "second.mov", rate, round(4 * rate))
    hits = [hit(second, 1.0, 3.0, score=0.4), hit(first, 0.0, 2.0), hit(second, 3.0, 4.0)]
    report = export.write_edl(hits, tmp_path / "cuts.edl", "a goal")
    assert [m.outcome for m in report.moments] == [WRITTEN] * 3
    assert report.paths == (tmp_path / "cuts.edl",)
    text = (tmp_path / "cuts.edl").read_text()
    assert text.startswith("TITLE: a goal\nFCM: NON-DROP FRAME\n")
    assert ";" not in text  # the mark of drop-frame timecode
    base = round(rate)
    timeline, clips = clips_of(tmp_path / "cuts.edl", rate=base)
    assert timeline.name == "a goal"
    assert [clip.name for clip in clips] == ["second.mov", "first.mp4", "second.mov"]
    for clip, found in zip(clips, hits, strict=True):
        start, count, counted = span(clip)
        assert counted == base
        assert start == round(found.start_seconds * rate)
        assert start + count == round(found.end_seconds * rate)
        assert clip.media_reference.target_url == found.path.as_uri()
        assert f"SCORE: {found.score:.6f}" in clip.metadata["cmx_3600"]["comments"]
        assert "QUERY: a goal" in clip.metadata["cmx_3600"]["comments"]
    reels = [clip.metadata["cmx_3600"]["reel"] for clip in clips]
    assert reels == ["SECOND", "FIRST", "SECOND"]


def test_the_timecodes_of_an_edit_list_are_those_that_a_calculator_gives(tmp_path):
    source = write_at(tmp_path / "a.mp4", NTSC, 30)
    report = export.write_edl([hit(source, 0.5, 0.9)], tmp_path / "a.edl", "q")
    assert "non-drop, at 29.97 frames a second" in report.note
    (event,) = [line for line in (tmp_path / "a.edl").read_text().splitlines() if " C " in line]
    # 0.5 s * 29.97 = 14.985 -> 15; 0.9 s * 29.97 = 26.973 -> 27
    assert event.split()[4:] == ["00:00:00:15", "00:00:00:27", "00:00:00:00", "00:00:00:12"]


def test_an_hour_at_29_97_counts_frames_and_not_seconds(tmp_path):
    from perception_search.export.report import Moment
    from perception_search.export.timelines import _edl_clip, _Placed

    moment = Moment(1, tmp_path / "a.mp4", 3600.0, 3610.0, 0.3)
    placed = _Placed(moment, NTSC, 0, 3600.0, 3610.0, None)
    start, count, rate = span(_edl_clip(otio, placed, "q", NTSC, "A"))
    assert (start, count, rate) == (107892, 300, 30)
    # 3.6 s behind the wall clock
    assert otio.opentime.to_timecode(otio.opentime.RationalTime(start, 30), 30) == "00:59:56:12"


def test_videos_of_another_rate_are_rounded_to_the_list_and_it_is_said(tmp_path):
    first = write_at(tmp_path / "a.mp4", 25, 50)
    second = write_at(tmp_path / "b.mp4", 30, 60)
    hits = [hit(first, 0.2, 1.0), hit(second, 0.5, 1.5)]
    report = export.write_edl(hits, tmp_path / "a.edl", "q")
    assert report.note.endswith("Videos of another rate, rounded to it: 1.")
    _, clips = clips_of(tmp_path / "a.edl", rate=25)
    assert [span(clip) for clip in clips] == [(5, 20, 25), (12, 26, 25)]
    export.write_edl(hits, tmp_path / "b.edl", "q", frames_per_second=29.97)
    _, clips = clips_of(tmp_path / "b.edl", rate=30)
    assert [span(clip) for clip in clips] == [(6, 24, 30), (15, 30, 30)]
    with pytest.raises(ValueError, match=r"12 frames a second; an edit list has one of 23\.976"):
        export.write_edl(hits, tmp_path / "c.edl", "q", frames_per_second=12)


def test_reels_have_eight_letters_and_no_two_videos_share_one(tmp_path):
    names = ["holiday one.mp4", "holiday-one 2.mp4", "ax.mp4", "日本.mp4", "holidayo.mov"]
    sources = [write_at(tmp_path / name, 25, 25) for name in names]
    export.write_edl([hit(s, 0.0, 1.0) for s in sources], tmp_path / "a.edl", "q")
    _, clips = clips_of(tmp_path / "a.edl", rate=25)
    reels = [clip.metadata["cmx_3600"]["reel"] for clip in clips]
    assert reels == ["HOLIDAYO", "HOLIDAY2", "AX2", "VIDEO", "HOLIDAY3"]
    assert [clip.name for clip in clips] == names


def test_an_edit_list_holds_999_events(tmp_path):
    hits = [hit(tmp_path / "gone.mp4", 0.0, 1.0)] * 1000
    with pytest.raises(ExportError, match="1000 moments; an edit list holds 999"):
        export.write_edl(hits, tmp_path / "a.edl", "q")


def test_a_timeline_keeps_every_rate_and_all_that_was_found(tmp_path):
    first = write_at(tmp_path / "a.mp4", 25, 50)
    second = write_at(tmp_path / "b.mkv", NTSC, 60)
    hits = [
        hit(second, 0.5, 1.5, score=0.4),
        hit(first, 1.0, 60.0),
        hit(first, 0.0, 1.0, rerank_score=0.9),
    ]
    report = export.write_otio(hits, tmp_path / "a.otio", NASTY)
    assert [m.outcome for m in report.moments] == [WRITTEN] * 3
    timeline, clips = clips_of(tmp_path / "a.otio")
    assert timeline.name == 'goal --> <b>"celebration"</b> & more WEBVTT\\x1b[31m'
    ntsc = pytest.approx(float(NTSC))
    assert [span(clip) for clip in clips] == [(15, 30, ntsc), (25, 25, 25), (0, 25, 25)]
    lengths = [clip.media_reference.available_range.duration.value for clip in clips]
    assert lengths == [60, 50, 50]
    for rank, (clip, found) in enumerate(zip(clips, hits, strict=True), start=1):
        said = clip.metadata["perception_search"]
        assert said["query"] == timeline.name
        assert said["rank"] == rank
        assert (said["start_seconds"], said["end_seconds"]) == (
            found.start_seconds,
            found.end_seconds,
        )
        assert clip.media_reference.target_url == found.path.as_uri()
        (marker,) = clip.markers
        assert marker.marked_range == clip.source_range
        assert timeline.name in marker.name
    assert [clip.metadata["perception_search"]["score"] for clip in clips] == [0.4, 0.3, 0.9]


@pytest.mark.parametrize(
    ("rate", "timecode", "first"),
    [(25, "01:00:00:05", 90005), (NTSC, "01:00:00:00", 108000), (NTSC, "01:00:00;00", 107892)],
)
def test_a_timecode_of_the_camera_is_where_counting_begins(tmp_path, rate, timecode, first):
    source = write_at(tmp_path / "a.mov", rate, 60, timecode)
    with av.open(str(source)) as container:
        assert timecode in [s.metadata.get("timecode") for s in container.streams]
    export.write_otio([hit(source, 1.0, 2.0)], tmp_path / "a.otio", "q")
    export.write_edl([hit(source, 1.0, 2.0)], tmp_path / "a.edl", "q")
    _, (clip,) = clips_of(tmp_path / "a.otio")
    assert span(clip)[:2] == (first + round(rate), round(rate))
    assert clip.media_reference.available_range.start_time.value == first
    _, (clip,) = clips_of(tmp_path / "a.edl", rate=round(rate))
    assert span(clip)[:2] == (first + round(rate), round(rate))


def test_chapters_are_in_the_order_of_time_and_escaped(tmp_path):
    webvtt = pytest.importorskip("webvtt")
    source = write_video(tmp_path / "a.mp4", 100)
    hits = [hit(source, 2.0, 3.5, score=0.4), hit(source, 0.0, 1.25), hit(source, 3661.0, 3662.5)]
    report = export.write_vtt(hits, tmp_path / "chapters.vtt", NASTY)
    assert report.paths == (tmp_path / "chapters.vtt",)
    cues = webvtt.read(str(tmp_path / "chapters.vtt")).captions
    assert [(cue.start, cue.end) for cue in cues] == [
        ("00:00:00.000", "00:00:01.250"),
        ("00:00:02.000", "00:00:03.500"),
        ("01:01:01.000", "01:01:02.500"),
    ]
    plain = 'goal --> <b>"celebration"</b> & more WEBVTT\\x1b[31m'
    assert [html.unescape(cue.raw_text) for cue in cues] == [
        f"{plain} ({score})" for score in ("0.300", "0.400", "0.300")
    ]
    with av.open(str(tmp_path / "chapters.vtt"), format="webvtt") as container:
        stream = container.streams.subtitles[0]
        packets = [p for p in container.demux(stream) if p.size]
    times = [float(p.pts * p.time_base) for p in packets]
    lasts = [float(p.duration * p.time_base) for p in packets]
    assert (times, lasts) == ([0, 2, 3661], [1.25, 1.5, 1.5])
    assert html.unescape(bytes(packets[1]).decode()) == f"{plain} (0.400)"


def test_chapters_are_told_by_the_clock_of_players(tmp_path):
    webvtt = pytest.importorskip("webvtt")
    late = write_video(tmp_path / "late.mp4", 50, ticks=[500 + 40 * n for n in range(50)])
    stream = write_video(tmp_path / "stream.ts", 50)  # begins at 1.4 s, and players say 0
    for source, begin in ((late, 0.5), (stream, 0.0)):
        with av.open(str(source)) as container:
            start = float(
                container.streams.video[0].start_time * container.streams.video[0].time_base
            )
        export.write_vtt([hit(source, 1.0, 2.0)], tmp_path / f"{source.stem}.vtt", "q")
        (cue,) = webvtt.read(str(tmp_path / f"{source.stem}.vtt")).captions
        assert seconds_of(cue.start) == pytest.approx(1.0 + begin, abs=2e-3), start
        assert seconds_of(cue.end) == pytest.approx(2.0 + begin, abs=2e-3)


def test_several_videos_need_a_folder_for_their_chapters(tmp_path):
    webvtt = pytest.importorskip("webvtt")
    folder = tmp_path / "other"
    folder.mkdir()
    sources = [
        write_video(tmp_path / "a b's.mp4", 25),
        write_video(folder / "A B's.mp4", 25),
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/we\xffird\n.mp4")),
        tmp_path / ("x" * 251 + ".mp4"),
    ]
    shutil.copy(sources[0], sources[2])
    shutil.copy(sources[0], sources[3])
    hits = [hit(source, 0.0, 0.5) for source in sources] + [hit(sources[0], 0.5, 1.0)]
    with pytest.raises(ExportError, match=r"The moments are of 4 videos, and .* is one file"):
        export.write_vtt(hits, tmp_path / "chapters.vtt", "q")
    assert not (tmp_path / "chapters.vtt").exists()
    report = export.write_vtt(hits, tmp_path / "chapters", "q")
    assert [m.outcome for m in report.moments] == [WRITTEN] * 5
    names = [m.path.name for m in report.moments]
    assert names[:3] == ["a b's.vtt", "A B's-2.vtt", "we_xffird_n.vtt"]
    assert names[4] == names[0]
    assert [len(webvtt.read(str(path)).captions) for path in report.paths] == [2, 1, 1, 1]
    again = export.write_vtt(hits[:1], tmp_path / "chapters", "q")
    assert [m.outcome for m in again.moments] == ["exists"]


def test_lines_for_moment_retrieval_are_in_the_form_of_qvhighlights(tmp_path):
    with (data.folder("annotations") / "qvhighlights_val.jsonl").open() as file:
        theirs = json.loads(file.readline())
    first, second = tmp_path / f"{theirs['vid']}.mp4", tmp_path / "b.mp4"
    hits = [
        hit(second, 4.0, 6.0, score=0.5),
        hit(first, 0.0, 2.0, score=0.4),
        hit(second, 0.0, 2.0, score=0.3, rerank_score=0.9),
        hit(tmp_path / "c.png", kind="image"),
    ]
    report = export.write_jsonl(hits, tmp_path / "moments.jsonl", theirs["query"])
    assert (len(report.moments), report.num_left_out) == (3, 1)
    lines = [json.loads(line) for line in (tmp_path / "moments.jsonl").read_text().splitlines()]
    assert [line["vid"] for line in lines] == ["b", theirs["vid"]]
    for line in lines:
        assert set(line) == {"qid", "query", "vid", "pred_relevant_windows", "path"}
        for key in ("qid", "query", "vid"):
            assert type(line[key]) is type(theirs[key])
        assert line["query"] == theirs["query"]
        scores = []
        for start, end, score in line["pred_relevant_windows"]:
            assert 0 <= start < end
            scores.append(score)
        assert scores == sorted(scores, reverse=True)
    assert lines[0]["pred_relevant_windows"] == [[0.0, 2.0, 0.9], [4.0, 6.0, 0.5]]
    assert lines[1]["pred_relevant_windows"] == [[0.0, 2.0, 0.4]]
    assert [line["qid"] for line in lines] == [1, 2]


def test_every_name_comes_back_from_lines_and_timelines(tmp_path):
    good = write_video(tmp_path / "good.mp4", 25)
    names = [b"we\xffird.mp4", b"two\nlines\x1b[31m.mp4", b"\"q'uo&te<.mp4", "日本 é.mp4".encode()]
    sources = [Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in names]
    for source in sources:
        shutil.copy(good, source)
    hits = [hit(source, 0.0, 1.0) for source in sources]
    query = "lone \udcff surrogate"
    for name in ("cuts.edl", "cuts.otio", "moments.jsonl"):
        report = WRITERS[name](hits, tmp_path / name, query)
        assert [m.outcome for m in report.moments] == [WRITTEN] * 4
    lines = (tmp_path / "moments.jsonl").read_text("ascii").splitlines()
    assert [Path(json.loads(line)["path"]) for line in lines] == sources
    assert json.loads(lines[0])["query"] == query
    for name, options in (("cuts.otio", {}), ("cuts.edl", {"rate": 25})):
        _, clips = clips_of(tmp_path / name, **options)
        urls = [clip.media_reference.target_url for clip in clips]
        assert urls == [source.as_uri() for source in sources]
        assert [clip.name for clip in clips] == [
            "we\\xffird.mp4",
            "two\\nlines\\x1b[31m.mp4",
            "\"q'uo&te<.mp4",
            "日本 é.mp4",
        ]
    assert (tmp_path / "cuts.edl").read_bytes().isascii() is False


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path, name):
    source = write_video(tmp_path / "a.mp4", 50)
    target = tmp_path / name
    target.write_text("mine")
    with pytest.raises(ExportError, match="already there"):
        WRITERS[name]([hit(source, 0.0, 1.0)], target, "q")
    assert target.read_text() == "mine"
    WRITERS[name]([hit(source, 0.0, 1.0)], target, "q", overwrite=True)
    assert target.read_text() != "mine"
    with pytest.raises(ExportError, match=r"not a folder; make it first"):
        WRITERS[name]([hit(source, 0.0, 1.0)], tmp_path / "no" / name, "q")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.mp4", name])


def test_a_file_that_appears_meanwhile_is_not_replaced_either(tmp_path):
    target = tmp_path / "a"
    with durable.pending(tmp_path) as new:
        new.file.write(b"ours")
        target.write_bytes(b"mine")
        with pytest.raises(ExportError, match="already there"):
            publish(new, target, overwrite=False)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"mine")]


@pytest.mark.parametrize("name", ["cuts.edl", "cuts.otio", "chapters"])
def test_a_video_that_is_gone_is_one_failure(tmp_path, name):
    writer = WRITERS.get(name, export.write_vtt)
    source = write_video(tmp_path / "a.mp4", 50)
    hits = [hit(tmp_path / "gone.mp4", 0.0, 1.0), hit(source, 0.0, 1.0), hit("b.png", kind="image")]
    report = writer(hits, tmp_path / name, "q")
    assert [m.outcome for m in report.moments] == ["unreadable", WRITTEN]
    assert report.moments[0].path is None
    assert report.num_left_out == 1
    assert "1 hit left out: is no moment of a video" in report.summary()
    assert json.loads(json.dumps(report.as_dict()))["moments"][0]["outcome"] == "unreadable"
    none = writer(hits[:1], tmp_path / f"none-{name}", "q")
    assert [m.outcome for m in none.moments] == ["unreadable"]
    assert not (tmp_path / f"none-{name}").is_file()


def test_what_is_missing_is_named_with_its_extra(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", 25)
    with monkeypatch.context() as patch:
        patch.setattr(otio.adapters, "available_adapter_names", lambda: ["otio_json"])
        with pytest.raises(MissingExtra, match=r"pip install 'perception-search\[export\]'"):
            export.write_edl([hit(source, 0.0, 1.0)], tmp_path / "a.edl", "q")
        export.write_otio([hit(source, 0.0, 1.0)], tmp_path / "a.otio", "q")
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    for name in ("b.edl", "b.otio"):
        with pytest.raises(MissingExtra, match=r"pip install 'perception-search\[export\]'"):
            WRITERS["cuts" + Path(name).suffix]([hit(source, 0.0, 1.0)], tmp_path / name, "q")
    export.write_vtt([hit(source, 0.0, 1.0)], tmp_path / "a.vtt", "q")  # needs nothing
    export.write_jsonl([hit(source, 0.0, 1.0)], tmp_path / "a.jsonl", "q")


def test_real_clips_make_timelines(tmp_path):
    clips = sorted(p for p in data.folder("clips").iterdir() if p.suffix != ".json")
    hits = [hit(clip, 0.5, 1.5) for clip in clips]
    for name in ("cuts.edl", "cuts.otio"):
        report = WRITERS[name](hits, tmp_path / name, "something that moves")
        assert report.failed == ()
    _, placed = clips_of(tmp_path / "cuts.otio")
    assert len(placed) == len(clips)
    for clip in placed:
        assert clip.media_reference.available_range.contains(clip.source_range), clip.name
    assert len(clips_of(tmp_path / "cuts.edl", rate=25)[1]) == len(clips)
