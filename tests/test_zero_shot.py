"""Zero-shot measures against the reference's outputs, and against the slow, obvious way."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_search import zero_shot
from perception_search.zero_shot import (
    classification,
    classifier,
    ranks,
    recalls,
    right_captions,
    right_media,
    unit,
)

GOLDEN = Path(__file__).parent / "encoder" / "golden"


@pytest.fixture(scope="module")
def inputs():
    return np.load(GOLDEN / "golden_metrics_inputs.npz")


def retrieval(scores, right, reweight, **how):
    [asked] = ranks(scores, right, reweight=reweight)
    [answered] = ranks(scores.T, right_captions(right, scores.shape[1]), reweight=reweight)
    return recalls(asked, answered, **how)


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "golden_metrics.json").read_text())


@pytest.mark.parametrize("rule", zero_shot.RULES)
@pytest.mark.parametrize(("reweight", "scale"), [(True, 1.0), (False, 1.0), (True, 100.0)])
@pytest.mark.parametrize("cells", [1 << 25, 7])
def test_retrieval_is_the_reference_s(inputs, golden, rule, reweight, scale, cells, monkeypatch):
    monkeypatch.setattr(zero_shot, "_CELLS_AT_ONCE", cells)
    right = right_media(inputs["captions"].tolist(), inputs["owner"], rule)
    found = retrieval(
        unit(inputs["text_emb_by_flat_caption"]) @ unit(inputs["image_emb"]).T,
        right,
        reweight=scale if reweight else None,
    )
    expected = golden[f"retrieval_reweight={reweight}_scale={scale}"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_equal_captions_share_their_pictures_by_one_rule_only():
    media = np.array([[1, 0], [0, 1]], np.float32)
    texts = media[::-1].copy()
    for rule, share in (("own", 0.0), ("shared", 1.0)):
        right = right_media(["x", "x"], np.array([0, 1]), rule)
        found = retrieval(texts @ media.T, right, reweight=None, ks=(1,))
        assert set(found.values()) == {share}, rule


def test_classification_is_the_reference_s(inputs, golden):
    classes = classifier(inputs["cls_text_emb"])
    assert classes[0] == pytest.approx(golden["classifier_first_col"], abs=1e-6)
    found = classification(inputs["cls_image_emb"], classes, inputs["cls_labels"])
    assert found == pytest.approx(golden["classification"], abs=1e-6)
    few = classification(inputs["cls_image_emb"][:3], classes[:4], np.array([0, 1, 2]))
    assert np.isnan(few["acc5"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.sampled_from([1, 50]))
def test_ranks_are_those_of_a_sort(seed, num_queries, num_media, scale):
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (num_queries, 3)).astype(np.float32)  # with many ties
    media = rng.integers(-2, 3, (num_media, 3)).astype(np.float32)
    right = [
        rng.choice(num_media, rng.integers(1, num_media + 1), replace=False)
        for _ in range(num_queries)
    ]
    scores = queries @ media.T
    [plain] = ranks(scores, right, reweight=None)
    for row, some, rank in zip(scores, right, plain, strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        assert rank == 1 + min(order.index(one) for one in some.tolist())
    scaled = scores.astype(np.float64) * scale
    share = np.exp(scaled - scaled.max(0)) / np.exp(scaled - scaled.max(0)).sum(0)
    weighted = scaled * share
    [found] = ranks(scores, right, reweight=scale)
    for row, some, rank in zip(weighted, right, found, strict=True):
        best = row[some].max()  # but for rounding, which may turn ties
        assert np.count_nonzero(row > best + 1e-4) < rank
        assert rank <= np.count_nonzero(row >= best - 1e-4)


def test_one_query_alone_is_ranked_as_by_its_products():
    rng = np.random.default_rng(0)
    media = unit(rng.standard_normal((50, 8)))
    query = unit(np.abs(media[:1]))
    right = [np.array([0])]
    scores = query @ media.T
    assert ranks(scores, right)[0] == ranks(scores, right, reweight=None)[0]


def test_captions_of_media_are_the_other_way_round():
    right = [np.array([1]), np.array([0, 1]), np.array([0])]
    assert [some.tolist() for some in right_captions(right, 2)] == [[1, 2], [0, 1]]


def test_misuse_is_told():
    one = np.ones((1, 2), np.float32)
    with pytest.raises(ValueError, match="every query needs a right candidate"):
        ranks(one, [np.zeros(0, np.int64)])
    with pytest.raises(ValueError, match="rule 'both'; it must be one of own, shared"):
        right_media(["a"], np.array([0]), "both")
    with pytest.raises(ValueError, match="2 captions and 1 owners"):
        right_media(["a", "b"], np.array([0]), "own")
    with pytest.raises(ValueError, match="labels must be 0 to 0"):
        classification(one, one, np.array([1]))
