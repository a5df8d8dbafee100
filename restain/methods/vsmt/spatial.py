"""Spatial alignment (VSMT): which real region belongs where on the virtual IHC, as the matrix A."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restain.alignment import (
    active_passive_matching,
    alignment_matrix,
    choose_clusters,
    identity_alignment,
    region_similarity,
    sinkhorn_alignment,
    spherical_kmeans,
)
from restain.methods.vsmt.config import VsmtConfig
from restain.methods.vsmt.structure import Modulator
from restain.methods.vsmt.tasks import AUXILIARY_TAPS

REGION_TAP = AUXILIARY_TAPS[-1]
"""Regions are matched by the features of the deeper level."""
SINKHORN_ITERATIONS = 50
MOST_CLUSTERS = 5
"""The largest K that `clusters = "auto"` tries."""


class SpatialAlignment(nn.Module):
    """From features of virtual IHC and reference to A, B x N x N; row = virtual region, column = real region."""

    def __init__(self, config: VsmtConfig) -> None:
        super().__init__()
        self.config = config
        self.modulator = Modulator(4 * config.width, config.region_size) if config.learns_regions else None

    def regions(self, features: Mapping[str, Tensor]) -> Tensor:
        """One vector per region, N x C x h/size x w/size: by the modulator, or the plain mean without one."""
        deepest = features[REGION_TAP]
        if self.modulator is None:
            return F.avg_pool2d(deepest, self.config.region_size)
        regions: Tensor = self.modulator(deepest)
        return regions

    def projected(self, features: Tensor) -> Tensor:
        """Regions as the structure loss compares them; there must be a modulator."""
        assert self.modulator is not None
        projected: Tensor = self.modulator.head(self.modulator(features))
        return projected

    def match(
        self, virtual: Mapping[str, Tensor], reference: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        """Alignment matrix from the features of both images, by the method that the config names.

        Gradients reach the regions through the similarities; classes and their matching are decided without. Where
        nothing is aligned, only the size of `reference` is looked at.
        """
        config = self.config
        if config.alignment == "identity":
            batch, _, height, width = reference[REGION_TAP].shape
            regions = (height // config.region_size) * (width // config.region_size)
            return identity_alignment(batch, regions, reference[REGION_TAP])
        return self._match(self.regions(virtual), self.regions(reference), generator)

    def _match(self, virtual: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
        """The same from regions, N x C x n x n."""
        config = self.config
        if config.alignment == "ot":
            return sinkhorn_alignment(virtual, reference, config.transport_epsilon, SINKHORN_ITERATIONS)
        # each image is clustered by itself: clustered together, classes would gather around common centres, and the
        # best way to match them would be the identity
        both = torch.cat([virtual, reference]).flatten(2).mT.detach()
        if config.clusters == "auto":
            clusters, labels = MOST_CLUSTERS, choose_clusters(both, generator, images_per_choice=2)
        else:
            clusters, labels = config.clusters, spherical_kmeans(both, config.clusters, generator)
        virtual_labels, reference_labels = labels.chunk(2)
        similarity = region_similarity(virtual.detach(), reference.detach())
        permutation = active_passive_matching(similarity, virtual_labels, reference_labels, clusters)
        return alignment_matrix(virtual, reference, virtual_labels, reference_labels, permutation)
