"""Spatial alignment (VSMT): which real region belongs where on the virtual IHC, as the matrix A."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restain.alignment import (
    active_passive_matching,
    alignment_matrix,
    choose_clusters,
    cosine_similarity,
    identity_alignment,
    sinkhorn_alignment,
    spherical_kmeans,
)
from restain.methods.vsmt.config import VsmtConfig
from restain.methods.vsmt.structure import Modulator


class SpatialAlignment(nn.Module):
    """From features of the virtual IHC and of the reference to A, B x N x N; row = virtual region, column = real region."""

    def __init__(self, config: VsmtConfig) -> None:
        super().__init__()
        self.config = config
        self.modulator = Modulator(4 * config.width, config.region_size) if config.learns_regions else None

    def regions(self, features: Tensor) -> Tensor:
        """One vector per region, N x C x h/size x w/size, by the modulator or as the plain mean (`structure_enhancement` off)."""
        if self.modulator is None:
            return F.avg_pool2d(features, self.config.region_size)
        regions: Tensor = self.modulator(features)
        return regions

    def match(self, virtual: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
        """Alignment matrix between two sets of regions (N x C x n x n), by the method that the config names.

        Gradients reach the regions through the similarities; classes and their matching are decided without.
        """
        if self.config.alignment == "identity":
            return identity_alignment(virtual)
        if self.config.alignment == "ot":
            return sinkhorn_alignment(virtual, reference, self.config.transport_epsilon)
        points = torch.cat([virtual, reference], dim=-1).detach()
        return points
