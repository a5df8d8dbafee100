from collections.abc import Callable
from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.contrastive import adaptive_patch_nce, margin_info_nce, patch_nce
from restain.randomness import generator

Golden = Callable[[str], dict[str, NDArray[np.float32]]]
SEEDS = st.integers(0, 10**6)


def vectors(seed: int, batch: int = 2, places: int = 5) -> Tensor:
    """Features of length 1 at some places: B x P x 4."""
    drawn = torch.randn(batch, places, 4, generator=generator(seed, "vectors"), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def maps(seed: int, batch: int = 2, side: int = 3) -> Tensor:
    """Features of any length on a grid: B x 4 x side x side."""
    return torch.randn(batch, 4, side, side, generator=generator(seed, "maps"), dtype=torch.float64)


def test_published_patch_nce(golden: Golden) -> None:
    expected = {name: torch.from_numpy(array) for name, array in golden("patch_nce").items()}
    loss = patch_nce(expected["query"][None], expected["key"][None], float(expected["tau"]))
    assert_close(loss, expected["loss"], atol=1e-5, rtol=0)


def patch_nce_by_loops(query: Tensor, key: Tensor, temperature: float) -> float:
    terms = []
    for image in range(len(query)):
        for place in range(query.shape[1]):
            near = [exp(float(query[image, place] @ other) / temperature) for other in key[image]]
            terms.append(-log(near[place] / sum(near)))
    return float(np.mean(terms))


@given(SEEDS, st.floats(0.05, 2))
def test_patch_nce_by_its_definition(seed: int, temperature: float) -> None:
    query, key = vectors(seed), vectors(seed + 1)
    assert float(patch_nce(query, key, temperature)) == pytest.approx(patch_nce_by_loops(query, key, temperature))


@given(SEEDS, st.permutations(range(5)))
def test_patch_nce_does_not_see_the_order_of_places(seed: int, order: list[int]) -> None:
    query, key = vectors(seed), vectors(seed + 1)
    assert_close(patch_nce(query[:, order], key[:, order]), patch_nce(query, key))


def test_patch_nce_limits() -> None:
    apart, same = torch.eye(4)[None], torch.eye(4)[:1].expand(1, 6, -1)
    assert_close(patch_nce(apart, apart, 0.01), torch.tensor(0.0))  # every place is told from all others
    assert_close(patch_nce(same, same), torch.tensor(6.0).log())  # no place is told from any
    assert patch_nce(same[:, :1], same[:, :1]) == 0  # one place alone


def test_patch_nce_gives_the_key_no_gradient() -> None:
    query, key = vectors(0).requires_grad_(), vectors(1).requires_grad_()
    patch_nce(query, key).backward()
    assert query.grad is not None
    assert key.grad is None


def adaptive_patch_nce_by_loops(query: Tensor, key: Tensor, evenness: float, temperature: float) -> float:
    losses, weights = [], []
    for queries, keys in zip(query, key, strict=True):
        for place, one in enumerate(queries):
            near = [exp(float(one @ other) / temperature) for other in keys]
            losses.append(-log(near[place] / sum(near)))
            weights.append(evenness + (1 - evenness) * max(float(one @ keys[place]), 0.0))
    return float(np.dot(weights, losses) / sum(weights))  # over all places of the batch


@given(SEEDS, st.floats(0.01, 1), st.floats(0.05, 2))
def test_adaptive_patch_nce_by_its_definition(seed: int, evenness: float, temperature: float) -> None:
    query, key = vectors(seed), vectors(seed + 1)
    expected = adaptive_patch_nce_by_loops(query, key, evenness, temperature)
    assert float(adaptive_patch_nce(query, key, evenness, temperature)) == pytest.approx(expected)


def test_adaptive_patch_nce_limits() -> None:
    query, key = vectors(0), vectors(1)
    assert_close(adaptive_patch_nce(query, key, 1.0), patch_nce(query, key))
    assert adaptive_patch_nce(query, -query, 0.0) == 0  # nothing agrees, nothing counts
    agreeing = query.clone()
    agreeing[:, 1:] *= -1  # all places but the first are as wrong as can be
    logits = (query @ agreeing.mT / 0.07)[:, 0]
    assert_close(adaptive_patch_nce(query, agreeing, 0.0), -logits.log_softmax(-1)[:, 0].mean())


def test_the_weights_of_adaptive_patch_nce_take_no_gradient() -> None:
    query, key = vectors(0).requires_grad_(), vectors(1).requires_grad_()
    adaptive_patch_nce(query, key, 0.3).backward()
    assert key.grad is None
    found, query.grad = query.grad, None
    with torch.no_grad():
        weights = 0.3 + 0.7 * (query * key).sum(-1).relu()
        weights /= weights.mean()
    logits = query @ key.detach().mT / 0.07
    (-(logits.log_softmax(-1).diagonal(dim1=1, dim2=2)) * weights).mean().backward()
    assert_close(found, query.grad)


def test_published_margin_info_nce(golden: Golden) -> None:
    expected = {name: torch.from_numpy(array) for name, array in golden("margin_info_nce").items()}
    views = (expected[name] for name in ("anchor", "positive", "negative"))
    loss = margin_info_nce(*views, float(expected["tau"]), float(expected["margin"]))
    assert_close(loss, expected["loss"], atol=1e-5, rtol=0)


def margin_info_nce_by_loops(
    anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float, margin: float
) -> float:
    terms = []
    for views in zip(anchor.flatten(2).mT, positive.flatten(2).mT, negative.flatten(2).mT, strict=True):
        for one, same in zip(*views[:2], strict=True):
            near = exp(float(F.cosine_similarity(one, same, dim=0)) / temperature)
            far = sum(exp((float(F.cosine_similarity(one, other, dim=0)) - margin) / temperature) for other in views[2])
            terms.append(-log(near / (near + far)))
    return float(np.mean(terms))


@given(SEEDS, st.floats(0.1, 2), st.floats(0, 2))
def test_margin_info_nce_by_its_definition(seed: int, temperature: float, margin: float) -> None:
    views = [maps(seed + offset) for offset in range(3)]
    expected = margin_info_nce_by_loops(*views, temperature, margin)
    assert float(margin_info_nce(*views, temperature, margin)) == pytest.approx(expected)


@given(SEEDS, st.permutations(range(3)))
def test_margin_info_nce_moves_with_the_grid(seed: int, order: list[int]) -> None:
    anchor, positive, negative = (maps(seed + offset) for offset in range(3))
    loss = margin_info_nce(anchor, positive, negative)
    assert_close(margin_info_nce(anchor[:, :, order], positive[:, :, order], negative), loss)
    assert_close(margin_info_nce(anchor, positive, negative[:, :, order]), loss)
    assert_close(margin_info_nce(3 * anchor, positive / 2, 5 * negative), loss)


def test_margin_info_nce_limits() -> None:
    anchor = maps(0)
    assert margin_info_nce(anchor, anchor, maps(1), margin=100) < 1e-12  # the margin lets all negatives go
    assert margin_info_nce(anchor, anchor, -anchor) < margin_info_nce(anchor, anchor, anchor)
    far = margin_info_nce(anchor, -anchor, anchor, temperature=1e-3, margin=0)
    assert 1990 < far < 2010  # -log of e^-1000 / e^1000: no overflow


def test_margin_info_nce_of_features_that_tell_no_regions_apart_is_nearly_nothing() -> None:
    same = torch.ones(2, 4, 8, 8, dtype=torch.float64)
    assert float(margin_info_nce(same, same, same)) == pytest.approx(log(1 + 64 * exp(-1.2 / 0.15)))
    assert margin_info_nce(same, same, same) < 0.022


FUNCTIONS = {
    "patch": lambda a, b, _: patch_nce(a.flatten(2).mT, b.flatten(2).mT),
    "adaptive": lambda a, b, _: adaptive_patch_nce(a.flatten(2).mT, b.flatten(2).mT, 0.0),
    "margin": margin_info_nce,
}


@pytest.mark.parametrize("loss", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("level", [None, 0.0, 1.0], ids=["random", "no features", "constant"])
def test_gradients_are_finite(loss: Callable[..., Tensor], level: float | None) -> None:
    views = [maps(seed).float() if level is None else torch.full((2, 4, 3, 3), level) for seed in range(3)]
    leaves = [view.requires_grad_() for view in views]
    loss(*leaves).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves if leaf.grad is not None)
    assert leaves[0].grad is not None


def test_a_batch_is_the_mean_of_its_images() -> None:
    query, key = vectors(0), vectors(1)
    one_by_one = [patch_nce(query[[image]], key[[image]]) for image in range(2)]
    assert_close(patch_nce(query, key), torch.stack(one_by_one).mean())
    views = [maps(seed) for seed in range(3)]
    one_by_one = [margin_info_nce(*(view[[image]] for view in views)) for image in range(2)]
    assert_close(margin_info_nce(*views), torch.stack(one_by_one).mean())


def test_autocast_changes_nothing() -> None:
    query, key = vectors(0).float(), vectors(1).float()
    views = [maps(seed).float() for seed in range(3)]
    places, regions = patch_nce(query, key), margin_info_nce(*views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(patch_nce(query, key), places)
        assert torch.equal(margin_info_nce(*views), regions)
        assert patch_nce(query.bfloat16(), key.bfloat16()).dtype == torch.float32


def test_shapes_must_match() -> None:
    with pytest.raises(ShapeError, match="query 2 × 5 × 4, key 2 × 6 × 4"):
        patch_nce(vectors(0), vectors(1, places=6))
    with pytest.raises(ShapeError, match="negative 1 × 4 × 3 × 3"):
        margin_info_nce(maps(0), maps(1), maps(2, batch=1))
