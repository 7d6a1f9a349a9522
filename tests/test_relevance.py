"""Relevance: what a hit's score is worth beside what everyday captions get in a collection."""

import hashlib
import json

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import write_pictures, write_videos

from perception_search import Collection, caption_bank, relevance, search


class Words(ColourEncoder):
    """Each text is a direction of its own, and leans to one that many pictures have."""

    def encode_text(self, texts):
        self.num_texts += len(texts)
        lean = self.encode_frames(np.full((1, 3, 16, 16), 40, np.uint8))[0]
        raw = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            own = np.random.default_rng(seed).standard_normal(lean.size)
            raw.append(0.5 * lean / np.linalg.norm(lean) + own / np.linalg.norm(own))
        raw = np.array(raw, np.float32)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path_factory, monkeypatch):
    if "run" in request.fixturenames:  # the starter's files lie in the usual one
        return
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_pictures(folder, 60)
    write_videos(folder / "videos", 3)
    return folder


@pytest.fixture(scope="module")
def filled(media, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "c.ps"
    Collection.create(path, encoder=Words()).ingest(media)
    return path


@pytest.fixture
def made(filled):
    return Collection.open(filled, encoder=Words())


def slowly(collection, query):
    """n of every row for a query, and its relevance, step by step."""
    snapshot, encoder = collection.snapshot, Words()
    bank = encoder.encode_text(caption_bank.captions()).astype(np.float64)
    searched = snapshot.searchable
    every = np.flatnonzero(snapshot.item_of_row >= 0)
    rows = snapshot.rows.embeddings(every).astype(np.float64)
    cosines = rows @ bank.T
    is_searched = np.isin(every, searched)
    beta = relevance.SHARPNESS / cosines[is_searched].std()
    bank_score = np.log(np.exp(beta * cosines).mean(axis=1)) / beta
    of_bank = (cosines - bank_score[:, None])[is_searched]
    z = (of_bank.max(axis=0) - of_bank.mean(axis=0)) / of_bank.std(axis=0)
    n = rows @ encoder.encode_text([query])[0].astype(np.float64) - bank_score
    mean, deviation = n[is_searched].mean(), n[is_searched].std()
    return {
        int(row): (one, float(np.mean(z < (one - mean) / deviation)))
        for row, one in zip(snapshot.rows.row_id[every], n, strict=True)
    }


def test_the_bank_is_fixed():
    captions = caption_bank.captions()
    assert len(captions) == len(set(captions)) == 1217
    assert caption_bank.sha256().startswith("4a20f3d6c648b18a")
    assert all(caption == caption.strip() for caption in captions)


@pytest.mark.parametrize("how", [{}, {"whole": True}])
def test_relevance_is_the_share_of_everyday_captions_that_find_nothing_as_good(made, how):
    hits = made.search("a query", k=80, relevant=1, **how)
    assert len(hits) == 63, "1 leaves nothing out"
    assert [hit.row_id for hit in hits] == [h.row_id for h in made.search("a query", k=80, **how)]
    expected = slowly(made, "a query")
    assert [hit.relevance for hit in hits] == pytest.approx(
        [expected[hit.row_id][1] for hit in hits], abs=0.002
    )
    assert len({hit.relevance for hit in hits}) > 4
    assert made.search("a query", k=1)[0].relevance is None
    assert made.search("a query", moments=True, relevant=1)[0].relevance is not None


def test_a_rate_is_the_share_of_everyday_captions_that_find_something(tmp_path, media):
    made = Collection.create(tmp_path / "c.ps", encoder=Words())
    made.ingest(media / "0000")
    captions = list(caption_bank.captions())
    answers = made.search_many(captions, k=1, relevant=0.2, normalised=True)
    assert np.mean([len(hits) for hits in answers]) == pytest.approx(0.2, abs=0.005)
    by_cosine = made.search_many(captions, k=1, relevant=0.2)
    assert np.mean([len(hits) for hits in by_cosine]) <= 0.205
    for wrong in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="must be above 0 and at most 1"):
            made.search("a query", relevant=wrong)


def test_normalised_ranks_by_what_is_left(made, monkeypatch):
    expected = slowly(made, "a query")
    cosine = [hit.row_id for hit in made.search("a query", k=63)]
    monkeypatch.setattr(relevance, "NORMALISED_DEPTH", 30)
    for k in (1, 5):  # k is below 30 / 20 first, then above
        among = cosine[: max(30, 20 * k)]
        best = sorted(among, key=lambda row: -expected[row][0])[:k]
        hits = made.search("a query", k=k, normalised=True)
        assert [hit.row_id for hit in hits] == best
        assert hits[0].score == pytest.approx(
            next(h.score for h in made.search("a query", k=63) if h.row_id == best[0])
        )


def test_an_index_finds_what_a_scan_does(made, monkeypatch):
    exact = made.search("a query", k=5, normalised=True, relevant=1)
    monkeypatch.setattr(search, "SCAN_IF_FEWER_ROWS", 0)
    monkeypatch.setattr(relevance, "NORMALISED_DEPTH", 12)
    among_few = made.search("a query", k=5, relevant=0.9)
    made.index("Flat")
    try:
        assert made.search("a query", k=5, relevant=0.9) == among_few
        monkeypatch.setattr(relevance, "NORMALISED_DEPTH", 200)
        assert made.search("a query", k=5, normalised=True, relevant=1) == exact
    finally:
        made.index("exact")


def test_only_new_rows_are_measured_and_gone_ones_forgotten(tmp_path, monkeypatch):
    made = Collection.create(tmp_path / "c.ps", encoder=Words())
    assert made.search("a query", relevant=0.5) == []
    write_pictures(tmp_path / "media", 20)
    made.ingest(tmp_path / "media")
    seen = []
    made.prepare_relevance(lambda *step: seen.append(step))
    assert seen[-1] == ("rows", 20, 20)
    write_pictures(tmp_path / "media", 10, first=20)
    made.ingest(tmp_path / "media")
    seen.clear()
    made.prepare_relevance(lambda *step: seen.append(step))
    assert seen[-1] == ("rows", 10, 10)
    [file] = (made.path / "cache").glob("relevance-*.bin")
    known = relevance._read(file)
    bank = Words().encode_text(caption_bank.captions())
    of_all = relevance.measure(made.snapshot, bank, relevance.measure(made.snapshot, bank))
    assert np.array_equal(known.row_id, of_all.row_id)
    sharper = relevance.SHARPNESS
    monkeypatch.setattr(relevance, "SHARPNESS", known.beta / of_all.beta * sharper)
    anew = relevance.measure(made.snapshot, bank)
    np.testing.assert_allclose(known.bank_score, anew.bank_score, atol=1e-5)
    np.testing.assert_allclose(known.best, anew.best, atol=1e-5)
    monkeypatch.setattr(relevance, "SHARPNESS", sharper)
    made.remove(tmp_path / "media/0000/000003.jpg")
    made.prepare_relevance()
    assert len(relevance._read(file).row_id) == 29, "one of thirty is more than a hundredth"
    assert file.stat().st_mtime_ns
    seen.clear()
    Collection.open(made.path, encoder=Words()).prepare_relevance(lambda *s: seen.append(s))
    assert ("rows", 29, 29) not in seen, "nothing is measured twice"


def test_what_is_stored_is_a_cache(tmp_path, media):
    made = Collection.create(tmp_path / "c.ps", encoder=Words())
    made.ingest(media / "0000")
    before = made.search("a query", relevant=1)
    [file] = (made.path / "cache").glob("relevance-*.bin")
    whole = file.read_bytes()
    for content in (b"", whole[:40], whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        file.write_bytes(content)
        again = Collection.open(made.path, encoder=Words())
        assert again.search("a query", relevant=1) == before
        assert file.read_bytes() == whole
    file.unlink()
    file.mkdir()  # cannot be read, nor replaced
    assert Collection.open(made.path, encoder=Words()).search("a query", relevant=1) == before
    assert made.verify() == []


def test_the_bank_is_embedded_once_for_all_collections(tmp_path, media):
    texts = []
    for name in ("a.ps", "b.ps"):
        encoder = Words()
        made = Collection.create(tmp_path / name, encoder=encoder)
        made.ingest(media / "0000")
        made.search("a query", relevant=0.5)
        texts.append(encoder.num_texts)
    assert texts == [1 + 1217, 1]


def test_the_command_may_find_nothing(run, tmp_path, monkeypatch):
    some = caption_bank.captions()[::20]
    monkeypatch.setattr(caption_bank, "captions", lambda: some)
    monkeypatch.setattr(caption_bank, "sha256", lambda: "of some")
    write_pictures(tmp_path / "media", 12)
    path = tmp_path / "c.ps"
    assert run("create", path, "--model", "starter")[0] == 0
    assert run("ingest", path, tmp_path / "media")[0] == 0
    code, out, _ = run("search", path, "a giraffe", "--json", "--false-alarms", 1, "-k", 12)
    hits = [json.loads(line) for line in out.splitlines()]
    assert (code, len(hits)) == (0, 12)
    assert all(0 <= hit["relevance"] <= 1 for hit in hits)
    best = max(hit["relevance"] for hit in hits)
    rate = (1 - best) / 2
    code, out, err = run("search", path, "a giraffe", "--false-alarms", rate)
    assert (code, out) == (0, "")
    assert "Nothing found." in err
    code, _, err = run("search", path, "a giraffe", "--relevant", "--false-alarms", 2)
    assert code == 2
    assert "--false-alarms is 2; above 0, and at most 1" in err
