from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain import alignment
from restain.errors import InputError
from restain.randomness import generator

Golden = Callable[[str], dict[str, NDArray[np.float32]]]
SEEDS = st.integers(0, 10**6)


def features(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "features"), dtype=torch.float64)


def labels(seed: int, *shape: int, clusters: int = 3) -> Tensor:
    return torch.randint(clusters, shape, generator=generator(seed, "labels"))


def test_published_matching_alignment_and_rearrangement(golden: Golden) -> None:
    expected = {name: torch.from_numpy(array) for name, array in golden("alignment").items()}
    virtual, real = expected["virtual_features"], expected["real_features"]
    virtual_labels, real_labels = expected["virtual_labels"].flatten(1), expected["real_labels"].flatten(1)
    similarity = alignment.region_similarity(virtual, real)
    permutation = alignment.active_passive_matching(similarity, virtual_labels, real_labels, 3)
    assert permutation.tolist() == [expected["permutation"].tolist()]
    matrix = alignment.alignment_matrix(virtual, real, virtual_labels, real_labels, permutation)
    assert_close(matrix, expected["alignment"], atol=1e-5, rtol=0)
    rearranged = alignment.rearrange(matrix, expected["features"])
    assert_close(rearranged, expected["rearranged"], atol=1e-5, rtol=0)


@given(SEEDS)
def test_similarity_is_the_cosine_of_every_pair(seed: int) -> None:
    virtual, real = features(seed, 2, 5, 2, 3), features(seed + 1, 2, 5, 2, 3)
    similarity = alignment.region_similarity(virtual, real)
    for image in range(2):
        for row in range(6):
            for column in range(6):
                one, other = virtual[image, :, row // 3, row % 3], real[image, :, column // 3, column % 3]
                assert_close(similarity[image, row, column], F.cosine_similarity(one, other, dim=0))


def matching_by_loops(similarity: Tensor, virtual_labels: Tensor, real_labels: Tensor, clusters: int) -> float:
    """The largest sum of the two largest similarities over all bijections."""
    return max(
        matched_similarity(similarity, virtual_labels, real_labels, order) for order in permutations(range(clusters))
    )


def matched_similarity(
    similarity: Tensor, virtual_labels: Tensor, real_labels: Tensor, order: tuple[int, ...]
) -> float:
    means = []
    for virtual, real in enumerate(order):
        pairs = similarity[virtual_labels == virtual][:, real_labels == real]
        means.append(float(pairs.mean()) if pairs.numel() else -1.0)
    return sum(sorted(means)[-2:])


@given(SEEDS, st.integers(2, 5))
def test_matching_is_the_best_of_all_bijections(seed: int, clusters: int) -> None:
    similarity = alignment.region_similarity(features(seed, 2, 4, 3, 3), features(seed + 1, 2, 4, 3, 3))
    virtual, real = labels(seed, 2, 9, clusters=clusters), labels(seed + 1, 2, 9, clusters=clusters)
    found = alignment.active_passive_matching(similarity, virtual, real, clusters)
    for image in range(2):
        order = tuple(found[image].tolist())
        assert sorted(order) == list(range(clusters))
        absent = set(range(clusters)) - {*virtual[image].tolist(), *real[image].tolist()}
        assert all(order[cluster] == cluster for cluster in absent)
        if not absent:
            best = matching_by_loops(similarity[image], virtual[image], real[image], clusters)
            assert matched_similarity(similarity[image], virtual[image], real[image], order) == pytest.approx(best)
        alone = alignment.active_passive_matching(
            similarity[image : image + 1], virtual[image : image + 1], real[image : image + 1], clusters
        )
        assert alone[0].tolist() == list(order)


@given(SEEDS, st.permutations(range(4)), st.permutations(range(4)))
def test_matching_follows_the_names_of_the_clusters(seed: int, virtual_names: list[int], real_names: list[int]) -> None:
    similarity = alignment.region_similarity(features(seed, 1, 4, 4, 4), features(seed + 1, 1, 4, 4, 4))
    order = labels(seed, 1, 16).argsort(1) % 4  # every cluster is there
    virtual, real = order, order.roll(3, 1)
    before = alignment.active_passive_matching(similarity, virtual, real, 4)[0]
    renamed_virtual, renamed_real = torch.tensor(virtual_names)[virtual], torch.tensor(real_names)[real]
    after = alignment.active_passive_matching(similarity, renamed_virtual, renamed_real, 4)[0]
    # Two pairs decide; the others follow by elimination, so any of their pairings is as good.
    args = (similarity[0], virtual[0], real[0])
    expected = matched_similarity(*args, tuple(before.tolist()))
    back = [real_names.index(int(after[virtual_names[cluster]])) for cluster in range(4)]
    assert matched_similarity(*args, tuple(back)) == pytest.approx(expected)


def test_the_least_alike_clusters_are_matched_by_elimination() -> None:
    similarity = torch.tensor([[[0.9, 0.1, 0.7], [0.2, 0.7, 0.1], [0.7, 0.1, -0.9]]])
    each = torch.arange(3)[None]
    assert alignment.active_passive_matching(similarity, each, each, 3).tolist() == [[0, 1, 2]]


@given(SEEDS, st.integers(2, 5))
def test_of_an_image_and_itself_every_class_is_its_own_counterpart(seed: int, clusters: int) -> None:
    image, classes = features(seed, 1, 4, 4, 4), labels(seed, 1, 16, clusters=clusters)
    similarity = alignment.region_similarity(image, image)
    found = alignment.active_passive_matching(similarity, classes, classes, clusters)
    best = matched_similarity(similarity[0], classes[0], classes[0], tuple(found[0].tolist()))
    assert matched_similarity(similarity[0], classes[0], classes[0], tuple(range(clusters))) == pytest.approx(best)


def test_an_image_with_fewer_clusters_is_matched_as_if_there_were_no_others() -> None:
    similarity = alignment.region_similarity(features(0, 1, 4, 4, 4), features(1, 1, 4, 4, 4))
    virtual, real = labels(0, 1, 16), labels(1, 1, 16)
    alone = alignment.active_passive_matching(similarity, virtual, real, 3)
    among_five = alignment.active_passive_matching(similarity, virtual, real, 5)
    assert among_five.tolist() == [[*alone[0].tolist(), 3, 4]]


@pytest.mark.parametrize("clusters", [1, 6])
def test_other_numbers_of_clusters_are_refused(clusters: int) -> None:
    with pytest.raises(InputError, match="clusters must be 2 to 5"):
        alignment.active_passive_matching(torch.zeros(1, 4, 4), labels(0, 1, 4), labels(0, 1, 4), clusters)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_sparsemax_is_the_nearest_point_of_the_simplex(values: list[float]) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    low, high = float(logits.min()) - 1, float(logits.max())
    for _ in range(80):  # the projection is (x - t)+ with t such that the sum is 1
        middle = (low + high) / 2
        low, high = (middle, high) if float((logits - middle).clamp_min(0).sum()) > 1 else (low, middle)
    assert_close(alignment.sparsemax(logits, 0), (logits - low).clamp_min(0), atol=1e-9, rtol=0)


@given(SEEDS, st.floats(-100, 100))
def test_sparsemax_does_not_see_a_shift_and_works_along_any_axis(seed: int, shift: float) -> None:
    logits = features(seed, 3, 4, 5)
    assert_close(alignment.sparsemax(logits + shift, 1), alignment.sparsemax(logits.mT, 2).mT)


def test_sparsemax_limits() -> None:
    assert_close(alignment.sparsemax(torch.zeros(2, 4), 1), torch.full((2, 4), 0.25))
    assert alignment.sparsemax(torch.tensor([3.0, 0.0, 1.0]), 0).tolist() == [1.0, 0.0, 0.0]
    assert alignment.sparsemax(torch.tensor([0.5, -torch.inf, 0.5]), 0).tolist() == [0.5, 0.0, 0.5]


def test_sparsemax_gradient() -> None:
    assert torch.autograd.gradcheck(alignment.sparsemax, (features(0, 2, 6).requires_grad_(), 1))


@given(SEEDS)
def test_alignment_keeps_to_matched_clusters(seed: int) -> None:
    virtual, real = features(seed, 2, 4, 4, 4), features(seed + 1, 2, 4, 4, 4)
    virtual_labels = labels(seed, 1, 16).argsort(1).expand(2, -1) % 3
    real_labels = virtual_labels.roll(5, 1)
    permutation = torch.tensor([[1, 2, 0], [0, 2, 1]])
    matrix = alignment.alignment_matrix(virtual, real, virtual_labels, real_labels, permutation)
    assert_close(matrix.sum(-1), torch.ones(2, 16, dtype=torch.float64))
    assert matrix.min() >= 0
    for image in range(2):
        for row in range(16):
            allowed = permutation[image, virtual_labels[image, row]] == real_labels[image]
            cosines = F.cosine_similarity(virtual[image].flatten(1)[:, row, None], real[image].flatten(1), dim=0)
            expected = alignment.sparsemax(torch.where(allowed, cosines + 1, 0), 0)
            assert_close(matrix[image, row], expected)


def test_regions_of_a_cluster_that_the_real_image_lacks_look_everywhere() -> None:
    virtual, real = features(0, 1, 4, 2, 2), features(1, 1, 4, 2, 2)
    virtual_labels, real_labels = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 0]])
    matrix = alignment.alignment_matrix(virtual, real, virtual_labels, real_labels, torch.tensor([[0, 1]]))
    everywhere = alignment.sparsemax(alignment.region_similarity(virtual, real) + 1)
    assert_close(matrix, everywhere)


def test_the_same_image_shifted_is_found_again() -> None:
    """Every region differs from every other, so each can only be like itself, one region further right."""
    size_px, grid = 64, 4
    virtual = torch.eye(grid**2, dtype=torch.float64).view(1, grid**2, grid, grid)
    real = virtual.roll(1, dims=3)  # everything lies one region further right, and the last column comes in on the left
    same = torch.zeros(1, grid**2, dtype=torch.int64)
    matrix = alignment.alignment_matrix(virtual, real, same, same, torch.tensor([[0, 1]]))
    assert_close(alignment.rearrange(matrix, real), virtual)
    displacement = alignment.expected_displacement(matrix, size_px)
    assert_close(displacement[0, 0, :, :-1], torch.full((grid, grid - 1), 16.0, dtype=torch.float64))
    assert_close(displacement[0, 1], torch.zeros(grid, grid, dtype=torch.float64))
