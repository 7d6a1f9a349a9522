"""Search against the slow, obvious version: every row, one cosine, one sort."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import flipped, item, make, row, unit

from perception_search import index, search
from perception_search.errors import CollectionDamaged, QueryError
from perception_search.search import Target
from perception_search.searcher import Searcher
from perception_search.shortlist import Shortlister
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.spans import find_spans
from perception_search.writer import Grid, Writer

NUM = 300


def build_index(folder):
    """An HNSW index of all rows."""
    snapshot = Snapshot.open(folder)
    known = {"next_row_id": snapshot.manifest.next_row_id, "version": snapshot.version}
    positions = np.arange(len(snapshot.rows))
    index.build(folder, snapshot.rows, positions, index.recipe("hnsw"), **known)


def grid_of(number):
    """50 frames, one a second; those of a segment are alike but for a little."""
    frames = np.repeat([unit(number * 10 + s) for s in range(5)], 10, axis=0)
    frames += 0.05 * np.stack([unit(number * 1000 + t) for t in range(50)])
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    return Grid(frames, np.ones(50), np.arange(50.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 images, then 20 videos of 5 segments with a whole-video row each."""
    folder = make(tmp_path_factory.mktemp("search") / "c.ps", NUM)
    with Writer(folder) as writer:
        for number in range(NUM, NUM + 20):
            rows = [
                row(number * 10 + s, scope="segment", start=10.0 * s, end=10.0 * s + 10)
                for s in range(5)
            ]
            rows.append(row(number * 10 + 9, scope="video", start=0.0, end=50.0))
            writer.add_item(item(number, "video"), rows, grid_of(number))
            writer.add_path(
                Path(f"/videos/{number}.mp4"), PathRecord(1, 2, 3, f"{number:064x}", "ingested")
            )
        writer.commit()
    return folder


@pytest.fixture
def snapshot(folder):
    return Snapshot.open(folder)


def brute_force(snapshot, query, k, scopes=(0, 1), keep=lambda _number: True):
    """(content hash, best score) of the best k items, by scoring everything."""
    best = {}
    rows = snapshot.rows
    for position in range(len(rows)):
        content_hash = rows.content_hash[position].as_py()
        if rows.scope[position] not in scopes or not keep(int(content_hash, 16)):
            continue
        score = float(rows.embeddings(np.array([position]))[0] @ query)
        best[content_hash] = max(score, best.get(content_hash, -2))
    return sorted(best.items(), key=lambda pair: -pair[1])[:k]


def check(hits, expected):
    assert [int(hit.path.stem) for hit in hits] == [int(h, 16) for h, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected], abs=1e-6)


@pytest.mark.parametrize("k", [1, 10, 319, 1000])
def test_search_equals_brute_force(snapshot, k):
    for number in range(5):
        query = unit(5000 + number)
        expected = brute_force(snapshot, query, k)
        check(search.search(snapshot, Target(query), k=k), expected)
        assert len(expected) == min(k, NUM + 20)


def test_whole_ranks_videos_by_their_whole_row(snapshot):
    query = unit(77)
    hits = search.search(snapshot, Target(query), k=30, whole=True)
    check(hits, brute_force(snapshot, query, 30, scopes=(0, 2)))


def test_a_video_comes_once_with_its_best_segment(snapshot):
    query = unit((NUM + 4) * 10 + 3)
    first = search.search(snapshot, Target(query), k=320)[0]
    assert first.path == Path(f"/videos/{NUM + 4}.mp4")
    assert (first.kind, first.start_seconds, first.end_seconds) == ("video", 30.0, 40.0)
    assert 30 <= first.best_seconds < 40
    assert first.score == pytest.approx(1, abs=1e-3)


def all_moments(snapshot, query, keep=lambda _number: True):
    """(name, start, end, score) of every span of every video, best first, the slow way."""
    found = []
    for number in filter(keep, range(NUM, NUM + 20)):
        frames = grid_of(number).embeddings.astype(np.float16).astype(np.float32)
        for first, stop, _ in find_spans(frames @ query):
            mean = frames[first:stop].mean(0)
            score = float(mean @ query / np.linalg.norm(mean))
            found.append((str(number), float(first), float(stop), score))
    return sorted(found, key=lambda one: (-one[3], one[0], one[1]))


def check_moments(hits, expected):
    assert [(h.path.stem, h.start_seconds, h.end_seconds) for h in hits] == [
        one[:3] for one in expected
    ]
    assert [h.score for h in hits] == pytest.approx([one[3] for one in expected], abs=1e-6)
    assert all(h.start_seconds <= h.best_seconds < h.end_seconds for h in hits)
    assert {h.kind for h in hits} <= {"video"}


@pytest.mark.parametrize("k", [1, 10, 60])
def test_moments_are_the_best_spans_of_all_videos(snapshot, k):
    for number in range(5):
        query = unit(6000 + number)
        hits = search.search(snapshot, Target(query), k=k, moments=True)
        expected = all_moments(snapshot, query)
        check_moments(hits, expected[:k])
        assert len(hits) == min(k, len(expected))
    query = unit(NUM * 10 + 2)
    best = search.search(snapshot, Target(query), k=k, moments=True)[0]
    assert (best.path.stem, best.start_seconds, best.end_seconds) == (str(NUM), 20.0, 30.0)


def test_moments_of_a_video_do_not_overlap(snapshot):
    hits = search.search(snapshot, Target(unit(6001)), k=200, moments=True)
    assert len(hits) > len({hit.path for hit in hits})
    for path in {hit.path for hit in hits}:
        times = sorted((h.start_seconds, h.end_seconds) for h in hits if h.path == path)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(times))


def test_moments_obey_filters_and_the_row_holds_the_best_frame(snapshot):
    query = unit(6002)
    hits = search.search(snapshot, Target(query), k=9, moments=True, condition="width < 405")
    check_moments(hits, all_moments(snapshot, query, lambda n: n < NUM + 5)[:9])
    hits = search.search(snapshot, Target(query), k=9, moments=True, min_score=0.2)
    check_moments(hits, [one for one in all_moments(snapshot, query) if one[3] >= 0.2][:9])
    for hit in hits:
        [place] = snapshot.rows.positions(np.array([hit.row_id]))
        assert snapshot.rows.scope[place] == 1
        assert snapshot.rows.start_seconds[place] <= hit.best_seconds
        assert hit.best_seconds < snapshot.rows.end_seconds[place]


def test_a_short_video_is_one_moment(tmp_path):
    folder = make(tmp_path / "c.ps", 0)
    frames = np.stack([unit(n) for n in range(10)])
    with Writer(folder) as writer:
        for number, seconds in ((1, 10.0), (2, 10.5)):
            rows = [row(number, scope="segment", start=0.0, end=seconds)]
            grid = Grid(frames, np.ones(10), np.arange(10.0))
            writer.add_item(item(number, "video") | {"duration_seconds": seconds}, rows, grid)
            record = PathRecord(1, 2, 3, f"{number:064x}", "ingested")
            writer.add_path(Path(f"/videos/{number}.mp4"), record)
        writer.commit()
    hits = search.search(Snapshot.open(folder), Target(unit(4)), k=9, moments=True)
    [short] = [hit for hit in hits if hit.path.stem == "1"]
    assert (short.start_seconds, short.end_seconds, short.best_seconds) == (0, 10, 4)
    long = [hit for hit in hits if hit.path.stem == "2"]
    assert long[0].best_seconds == 4
    assert long[0].end_seconds - long[0].start_seconds < 5


def test_the_last_instant_of_a_video_is_no_moment_of_its_own(tmp_path):
    folder = make(tmp_path / "c.ps", 0)
    frames = np.stack([unit(n) for n in range(21)])
    with Writer(folder) as writer:
        rows = [row(1, scope="segment", start=0.0, end=20.03)]
        kept = item(1, "video") | {"duration_seconds": 20.03}
        writer.add_item(kept, rows, Grid(frames, np.ones(21), np.arange(21.0)))
        record = PathRecord(1, 2, 3, f"{1:064x}", "ingested")
        writer.add_path(Path("/videos/1.mp4"), record)
        writer.commit()
    snapshot = Snapshot.open(folder)
    for query in (unit(20), unit(19)):
        hits = search.search(snapshot, Target(query), k=20, moments=True)
        assert min(hit.end_seconds - hit.start_seconds for hit in hits) >= 1
    assert (hits[0].best_seconds, hits[0].end_seconds) == (19, 20.03)


def test_a_minus_lowers_moments_too(snapshot):
    query, unwanted = unit(NUM * 10 + 2), unit(NUM * 10 + 2) * 0.6 + unit(1) * 0.8
    unwanted /= np.linalg.norm(unwanted)
    [plain] = search.search(snapshot, Target(query), k=1, moments=True)
    lowered = search.search(snapshot, Target(query, [(1.0, unwanted)]), k=50, moments=True)
    [same] = [h for h in lowered if h.path == plain.path and h.start_seconds == 20.0]
    assert same.score < plain.score - 0.2


def test_a_condition_keeps_k_full(snapshot):
    query = unit(1)
    hits = search.search(snapshot, Target(query), k=10, condition="kind = 'video'")
    check(hits, brute_force(snapshot, query, 10, keep=lambda n: n >= NUM))
    hits = search.search(snapshot, Target(query), k=10, condition="width >= 390 AND width < 395")
    check(hits, brute_force(snapshot, query, 10, keep=lambda n: 290 <= n < 295))
    assert search.search(snapshot, Target(query), k=3, condition="false") == []


def test_min_score_and_exclude_leave_out(snapshot):
    query = unit(7)
    hits = search.search(snapshot, Target(query), k=100, min_score=0.3)
    assert all(hit.score >= 0.3 for hit in hits)
    assert len(hits) == sum(s >= 0.3 for _, s in brute_force(snapshot, query, 1000))
    hits = search.search(snapshot, Target(query), k=5, exclude=f"{7:064x}")
    check(hits, brute_force(snapshot, query, 5, keep=lambda n: n != 7))


def test_minus_is_a_penalty_and_never_a_reward(snapshot):
    query, unwanted = unit(7), unit(8)
    plain = {h.row_id: h.score for h in search.search(snapshot, Target(query), k=400)}
    target = Target(query, [(2.0, unwanted)])
    lowered = {h.row_id: h.score for h in search.search(snapshot, target, k=400)}
    rows = snapshot.rows
    searchable = np.flatnonzero(rows.scope != 2)
    cosines = rows.embeddings(searchable) @ unwanted
    usual = np.median(cosines)
    checked = 0
    for position, cosine in zip(searchable.tolist(), cosines.tolist(), strict=True):
        row_id = int(rows.row_id[position])
        if row_id in plain and row_id in lowered:
            expected = plain[row_id] - 2 * max(0.0, cosine - usual)
            assert lowered[row_id] == pytest.approx(expected, abs=1e-5)
            checked += 1
    assert checked > NUM
    assert all(lowered[i] <= plain[i] + 1e-6 for i in lowered if i in plain)


def test_removed_rows_are_never_found(tmp_path):
    folder = make(tmp_path / "c.ps", 20)
    with Writer(folder) as writer:
        writer.add_path(Path("/photos/7.jpg"), PathRecord(1, 2, 3, f"{7:064x}", "removed"))
        writer.commit()
    hits = search.search(Snapshot.open(folder), Target(unit(7)), k=50)
    assert len(hits) == 19
    assert all(hit.path.stem != "7" for hit in hits)


def test_misuse_is_told(snapshot):
    with pytest.raises(ValueError, match="k is 0"):
        search.search(snapshot, Target(unit(0)), k=0)
    with pytest.raises(QueryError, match="where"):
        search.search(snapshot, Target(unit(0)), k=1, condition="1=1; select 1")
    with pytest.raises(ValueError, match="not by both"):
        search.search(snapshot, Target(unit(0)), k=1, whole=True, moments=True)


@pytest.mark.parametrize("how", ["alone", "many", "by an index"])
def test_a_bit_of_an_embedding_that_changed_on_disk_is_not_ranked_in_silence(
    tmp_path, monkeypatch, how
):
    """Also where files are too large to be compared whole before they are used."""
    monkeypatch.setattr(Snapshot, "HASH_LIMIT_BYTES", 0)
    folder = make(tmp_path / "c.ps", 5)
    if how == "by an index":
        build_index(folder)
    searcher = Searcher(folder, "cpu")
    [file] = Snapshot.open(folder).manifest.of("rows")
    path = folder / file.name
    flipped(path, path.read_bytes().rindex(unit(4).astype(np.float16).tobytes()))
    targets = [Target(unit(4))] * (2 if how == "many" else 1)
    with pytest.raises(CollectionDamaged, match="not what was written"):
        searcher.search(Snapshot.open(folder), targets, k=5)


def test_a_page_of_a_large_file_from_before_there_were_checksums_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(Snapshot, "HASH_LIMIT_BYTES", 0)
    folder = tmp_path / "c.ps"
    shutil.copytree(Path(__file__).parent / "golden_collections" / "1", folder)
    snapshot = Snapshot.open(folder)
    [file] = snapshot.manifest.of("rows")
    content = bytearray((folder / file.name).read_bytes())
    stored = snapshot.rows.embeddings(np.array([4])).astype(np.float16).tobytes()
    start = content.rindex(stored)
    content[start : start + len(stored)] = bytes(len(stored))
    (folder / file.name).write_bytes(content)
    with pytest.raises(CollectionDamaged, match="verify"):
        search.search(Snapshot.open(folder), Target(unit(4)), k=5)


@pytest.mark.parametrize("table", ["rows", "grid"])
def test_a_large_file_with_another_footer_is_refused_before_it_is_read(
    tmp_path, monkeypatch, table
):
    """What reads it may end the process, not just fail."""
    monkeypatch.setattr(Snapshot, "HASH_LIMIT_BYTES", 0)
    folder = make(tmp_path / "c.ps", 5, grid=True)
    [file] = Snapshot.open(folder).manifest.of(table)
    flipped(folder / file.name, -100)
    monkeypatch.delattr("pyarrow.parquet.ParquetFile")
    with pytest.raises(CollectionDamaged, match="verify"):
        getattr(Snapshot.open(folder), "grids" if table == "grid" else table)


# Many targets


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"k": 1},
        {"k": 319},
        {"whole": True},
        {"moments": True},
        {"min_score": 0.2},
        {"condition": "kind = 'video'"},
        {"condition": "false"},
        {"exclude": f"{3:064x}"},
    ],
    ids=str,
)
def test_many_targets_find_what_each_finds_alone(snapshot, how):
    how = {"k": 10} | how
    targets = [Target(unit(number)) for number in range(9)]
    targets += [Target(unit(number), [(2.0, unit(number + 1))]) for number in range(9)]
    rows = snapshot.rows
    shortlister = Shortlister(rows.blocks, rows.dim, torch.device("cpu"))
    many = search.search_many(snapshot, targets, shortlister=shortlister, **how)
    alone = [search.search(snapshot, target, **how) for target in targets]
    assert [[h.row_id for h in hits] for hits in many] == [[h.row_id for h in a] for a in alone]
    for hits, expected in zip(many, alone, strict=True):
        assert [h.score for h in hits] == pytest.approx([h.score for h in expected], abs=1e-6)
    assert search.search_many(snapshot, [], **how) == []


@pytest.mark.parametrize("has_gpu", [True, False])
def test_one_target_is_scored_on_the_gpu_where_there_is_one(snapshot, monkeypatch, has_gpu):
    searcher = Searcher(snapshot.folder, "cpu")
    monkeypatch.setattr(Searcher, "_has_gpu", lambda _: has_gpu)
    [hits] = searcher.search(snapshot, [Target(unit(3))], k=5)
    assert (searcher._shortlister is not None) == has_gpu
    assert hits == search.search(snapshot, Target(unit(3)), k=5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_what_the_cpu_finds(snapshot):
    searcher = Searcher(snapshot.folder, "cuda")
    assert searcher._has_gpu()
    for number in range(9):
        [hits] = searcher.search(snapshot, [Target(unit(number))], k=10)
        expected = search.search(snapshot, Target(unit(number)), k=10)
        assert [hit.row_id for hit in hits] == [hit.row_id for hit in expected]
    assert searcher._shortlister is not None


# With an index


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """400 images of which 300 are in an HNSW index, one of those removed."""
    folder = make(tmp_path_factory.mktemp("index") / "c.ps", 300)
    build_index(folder)
    make(folder, 100, first=300)
    with Writer(folder) as writer:
        writer.add_path(Path("/photos/7.jpg"), PathRecord(1, 2, 3, f"{7:064x}", "removed"))
        writer.commit()
    return folder


def test_an_index_and_the_rows_since_are_searched_together(indexed, monkeypatch):
    monkeypatch.setattr(search, "SCAN_IF_FEWER_ROWS", 0)
    snapshot = Snapshot.open(indexed)
    opened = index.open_index(indexed, snapshot.rows)
    looked = []
    real = opened.search
    monkeypatch.setattr(opened, "search", lambda *a: looked.append(a[1]) or real(*a))
    for number in (3, 7, 250, 299, 300, 399, 1234, 4321):
        for target in (Target(unit(number)), Target(unit(number), [(1.0, unit(number + 1))])):
            exact = search.search(snapshot, target, k=5)
            fast = search.search(snapshot, target, k=5, index=opened)
            assert [h.row_id for h in fast] == [h.row_id for h in exact]
            assert [h.score for h in fast] == pytest.approx([h.score for h in exact], abs=1e-6)
    assert looked, "the index was used"
    exact = search.search(snapshot, Target(unit(1)), k=5, condition="width % 2 = 0")
    fast = search.search(snapshot, Target(unit(1)), k=5, condition="width % 2 = 0", index=opened)
    assert [h.row_id for h in fast] == [h.row_id for h in exact]
