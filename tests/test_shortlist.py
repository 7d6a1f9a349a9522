"""A shortlist holds the best rows, whatever the numbers are that products are computed in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_search import shortlist
from perception_search.shortlist import Shortlister

CPU = torch.device("cpu")
DIM = 96


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def rows_near(centre, count, spread, seed):
    """(count, DIM) float16 rows around one direction: the smaller the spread, the more alike."""
    noise = np.random.default_rng(seed).standard_normal((count, DIM))
    return unit(centre + spread * noise).astype(np.float16)


def blocks(rows, size=50):
    def given(positions=None):
        wanted = np.arange(len(rows)) if positions is None else positions
        for first in range(0, len(rows), size):
            here = wanted[(wanted >= first) & (wanted < first + size)]
            yield here, rows[here] if len(here) < size else rows[first : first + size]

    return given


def best(rows, query, k, positions):
    """Positions of the k best by exact products, in float64."""
    scores = rows[positions].astype(np.float64) @ query.astype(np.float64)
    return set(positions[np.argsort(-scores, kind="stable")[:k]].tolist())


@pytest.fixture(params=["float32", "bfloat16"], autouse=True)
def numbers(request, monkeypatch):
    """What a CPU computes in; bfloat16 is emulated where it has no instructions for it."""
    is_fast = request.param == "bfloat16"
    monkeypatch.setattr(shortlist, "computes_in_bfloat16", lambda: is_fast)
    return request.param


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.003], ids=["apart", "near", "hardly told apart"])
def test_the_best_rows_are_on_it(spread, numbers):
    rng = np.random.default_rng(0)
    centre = unit(rng.standard_normal(DIM))
    rows = rows_near(centre, 700, spread, seed=1)
    queries = unit(centre + rng.standard_normal((40, DIM)) / DIM**0.5).astype(np.float32)
    everything = np.arange(len(rows))
    lists = Shortlister(blocks(rows), DIM, CPU).shortlist(queries, 10)
    for query, found in zip(queries, lists, strict=True):
        assert (np.diff(found) > 0).all()
        assert best(rows, query, 10, everything) <= set(found.tolist())
    if spread == 1.0 or numbers == "float32":
        assert np.mean([len(found) for found in lists]) < 60, "it is short"


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 130),
    k=st.integers(1, 140),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    spread=st.sampled_from([1.0, 0.01]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_filter_and_any_number_of_rows(count, k, share, spread, seed):
    rng = np.random.default_rng(seed)
    rows = rows_near(unit(rng.standard_normal(DIM)), count, spread, seed)
    queries = unit(rng.standard_normal((3, DIM))).astype(np.float32)
    positions = np.flatnonzero(rng.random(count) < share)
    lists = Shortlister(blocks(rows), DIM, CPU).shortlist(queries, k, positions)
    assert len(lists) == 3
    for query, found in zip(queries, lists, strict=True):
        assert set(found.tolist()) <= set(positions.tolist())
        assert best(rows, query, k, positions) <= set(found.tolist())


def test_equal_rows_are_all_on_it():
    rows = np.repeat(rows_near(unit(np.ones(DIM)), 1, 0.0, 0), 30, axis=0)
    query = unit(np.ones((1, DIM))).astype(np.float32)
    [found] = Shortlister(blocks(rows), DIM, CPU).shortlist(query, 3)
    assert found.tolist() == list(range(30))


def test_many_queries_are_asked_in_parts(monkeypatch):
    rows = rows_near(unit(np.ones(DIM)), 100, 1.0, 0)
    queries = rows_near(unit(np.ones(DIM)), 7, 1.0, 1).astype(np.float32)
    whole = Shortlister(blocks(rows), DIM, CPU).shortlist(queries, 5)
    monkeypatch.setattr(shortlist, "QUERIES_AT_ONCE", 3)
    parts = Shortlister(blocks(rows), DIM, CPU).shortlist(queries, 5)
    for one, other in zip(whole, parts, strict=True):
        assert set(one[:5].tolist()) & set(other.tolist())
    assert len(parts) == 7


def test_mapped_rows_are_read_without_a_copy_and_without_a_warning(recwarn):
    rows = rows_near(unit(np.ones(DIM)), 100, 1.0, 0)
    rows.flags.writeable = False
    before = rows.tobytes()
    Shortlister(blocks(rows), DIM, CPU).shortlist(rows[:2].astype(np.float32), 5)
    assert rows.tobytes() == before
    assert not recwarn.list


@pytest.mark.parametrize("at_most", [1, 120, 10_000])
def test_blocks_are_joined_for_a_gpu(monkeypatch, at_most):
    monkeypatch.setattr(shortlist, "GPU_BLOCK_ROWS", at_most)
    rows = rows_near(unit(np.ones(DIM)), 230, 1.0, 0)
    joined = list(shortlist._joined(blocks(rows)(), CPU))
    assert torch.equal(torch.cat([part for _, part in joined]), torch.from_numpy(rows))
    assert [place.start for place, _ in joined] == [0, *(place.stop for place, _ in joined[:-1])]
    assert all(place.stop - place.start == len(part) for place, part in joined)
    assert all(len(part) <= max(at_most, 50) for _, part in joined)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_finds_them_too():
    rows = rows_near(unit(np.ones(DIM)), 3000, 1.0, 0)
    queries = rows_near(unit(np.ones(DIM)), 9, 1.0, 1).astype(np.float32)
    lists = Shortlister(blocks(rows), DIM, torch.device("cuda")).shortlist(queries, 10)
    for query, found in zip(queries, lists, strict=True):
        assert best(rows, query, 10, np.arange(3000)) <= set(found.tolist())
