import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from restain import alignment
from restain.errors import ShapeError
from restain.randomness import generator

SEEDS = st.integers(0, 10**6)


def features(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "features"), dtype=torch.float64)


def labels(seed: int, *shape: int, clusters: int = 3) -> Tensor:
    return torch.randint(clusters, shape, generator=generator(seed, "labels"))


def blobs(seed: int, clusters: int, batch: int = 2, each: int = 6) -> Tensor:
    """Points around as many orthogonal directions as there are clusters, of any length: B x (clusters·each) x 8."""
    centres = torch.eye(8, dtype=torch.float64)[:clusters].repeat_interleave(each, 0).expand(batch, -1, -1)
    lengths = 0.1 + 5 * torch.rand(batch, clusters * each, 1, generator=generator(seed, "lengths"))
    return (centres + 0.05 * features(seed, batch, clusters * each, 8)) * lengths


def same_partition(first: Tensor, second: Tensor) -> bool:
    """Whether two labellings differ in names alone."""
    return torch.equal(first.unsqueeze(-1) == first.unsqueeze(-2), second.unsqueeze(-1) == second.unsqueeze(-2))


@given(SEEDS, st.integers(2, 5))
def test_kmeans_finds_directions_whatever_the_lengths(seed: int, clusters: int) -> None:
    found = alignment.spherical_kmeans(blobs(seed, clusters), clusters, generator(seed), iterations=10)
    assert same_partition(found, torch.arange(clusters).repeat_interleave(6).expand(2, -1))


def kmeans_by_loops(points: Tensor, clusters: int, draws: list[list[int]], iterations: int) -> tuple[Tensor, float]:
    points = points / points.norm(dim=-1, keepdim=True)
    best = (torch.empty(0), -torch.inf)
    for chosen in draws:
        centres = [points[index] for index in chosen]
        for _ in range(iterations):
            nearest = torch.tensor(
                [int(torch.stack([point @ centre for centre in centres]).argmax()) for point in points]
            )
            for cluster in range(clusters):
                members = [point for point, label in zip(points, nearest, strict=True) if label == cluster]
                if members:
                    total = torch.stack(members).sum(0)
                    centres[cluster] = total / total.norm()
        closeness = torch.stack([torch.stack([point @ centre for centre in centres]) for point in points])
        objective = float(closeness.amax(1).sum())
        if objective > best[1]:
            best = (closeness.argmax(1), objective)
    return best


@given(SEEDS, st.integers(2, 4))
def test_kmeans_is_the_best_of_its_restarts(seed: int, clusters: int) -> None:
    points = features(seed, 2, 12, 4)
    drawing = generator(seed)
    draws = [torch.randperm(12, generator=drawing)[:clusters].tolist() for _ in range(3)]
    found = alignment.spherical_kmeans(points, clusters, generator(seed), restarts=3, iterations=4)
    for image in range(2):
        assert torch.equal(found[image], kmeans_by_loops(points[image], clusters, draws, 4)[0])


@given(SEEDS)
def test_kmeans_of_a_batch_is_that_of_its_images(seed: int) -> None:
    points = features(seed, 3, 20, 6)
    together = alignment.spherical_kmeans(points, 3, generator(seed))
    one_by_one = [alignment.spherical_kmeans(image[None], 3, generator(seed)) for image in points]
    assert torch.equal(together, torch.cat(one_by_one))


@pytest.mark.parametrize("points", [torch.zeros(1, 8, 4), torch.ones(1, 8, 4)], ids=["no features", "constant image"])
def test_equal_points_share_a_cluster(points: Tensor) -> None:
    assert len(alignment.spherical_kmeans(points, 3, generator(0)).unique()) == 1


def test_kmeans_needs_as_many_points_as_clusters() -> None:
    with pytest.raises(ShapeError, match="4 clusters need at least as many points"):
        alignment.spherical_kmeans(torch.rand(1, 3, 2), 4, generator(0))


def silhouette_by_loops(points: Tensor, names: Tensor) -> float:
    points = points / points.norm(dim=-1, keepdim=True)
    scores = []
    for index, point in enumerate(points):
        distances: dict[int, list[float]] = {}
        for other, name in enumerate(names.tolist()):
            if other != index:
                distances.setdefault(name, []).append(float(1 - point @ points[other]))
        own = distances.pop(int(names[index]), [])
        if own and distances:
            inside, outside = np.mean(own), min(np.mean(group) for group in distances.values())
            scores.append((outside - inside) / max(inside, outside))
        else:
            scores.append(0.0)
    return float(np.mean(scores))


@given(SEEDS, st.integers(2, 5))
def test_silhouette_by_its_definition(seed: int, clusters: int) -> None:
    points, names = features(seed, 2, 9, 3), labels(seed, 2, 9, clusters=clusters)
    expected = [silhouette_by_loops(image, own) for image, own in zip(points, names, strict=True)]
    assert_close(alignment.silhouette(points, names, 5), torch.tensor(expected, dtype=torch.float64))


def test_one_cluster_scores_nothing() -> None:
    assert alignment.silhouette(features(0, 1, 6, 3), torch.zeros(1, 6, dtype=torch.int64), 3).tolist() == [0.0]
    assert alignment.silhouette(torch.zeros(1, 6, 3), labels(0, 1, 6), 3).tolist() == [0.0]


@given(SEEDS)
def test_each_image_gets_the_number_of_clusters_that_it_has(seed: int) -> None:
    three = blobs(seed, 3, batch=1, each=10)
    five = blobs(seed, 5, batch=1, each=6)
    chosen = alignment.choose_clusters(torch.cat([three, five]), generator(seed))
    assert same_partition(chosen[0], torch.arange(3).repeat_interleave(10))
    assert same_partition(chosen[1], torch.arange(5).repeat_interleave(6))
    assert torch.equal(chosen[:1], alignment.choose_clusters(three, generator(seed)))
