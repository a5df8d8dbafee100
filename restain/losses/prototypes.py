"""Prototypes: what stained and unstained tissue look like on average, from one section to its neighbour and back."""

import torch
from torch import Tensor
from torch.nn import functional as F

from restain.alignment import TINY
from restain.tensors import full_precision, same_shape


def class_prototypes(features: Tensor, mask: Tensor) -> Tensor:
    """Average the features outside and inside a mask.

    Args:
        features: N x C x H x W.
        mask: N x 1 x H x W, bool.

    Returns:
        N x 2 x C, outside first; 0 for a class without pixels.
    """
    members = torch.cat([~mask, mask], dim=1).to(features).flatten(2)
    return (members @ features.flatten(2).mT) / members.sum(2, keepdim=True).clamp_min(1)


@full_precision
def prototype_loss(
    virtual: Tensor, real: Tensor, virtual_mask: Tensor, real_mask: Tensor, scale: float = 1.0
) -> Tensor:
    """Classify each section's pixels by the other one's prototypes (PSPStain, CTPC; Chen et al. 2024).

    Prototypes of the virtual IHC are applied to the real one, and back: cross-entropy of cosine similarities. An image
    where either side lacks a class has no such prototypes and counts 0.

    Args:
        virtual: features of the virtual IHC, N x C x H x W.
        real: features of its neighbour, same shape.
        virtual_mask: where the virtual IHC is stained, N x 1 x H x W, bool.
        real_mask: where the neighbour is.
        scale: multiplies the cosines before the softmax.

    Raises:
        ShapeError: features or masks differ in shape.
    """
    same_shape(virtual=virtual, real=real)
    same_shape(virtual_mask=virtual_mask, real_mask=real_mask)
    there = _classify(real, class_prototypes(virtual, virtual_mask), real_mask, scale)
    back = _classify(virtual, class_prototypes(real, real_mask), virtual_mask, scale)
    complete = _has_both(virtual_mask) & _has_both(real_mask)
    return (complete * (there + back)).mean()


def _classify(features: Tensor, prototypes: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Cross-entropy of each image's pixels against its mask: N."""
    directions = F.normalize(features.flatten(2), dim=1, eps=TINY)
    logits = scale * (F.normalize(prototypes, dim=2, eps=TINY) @ directions)  # N x 2 x HW
    return F.cross_entropy(logits, mask.flatten(1).long(), reduction="none").mean(1)


def _has_both(mask: Tensor) -> Tensor:
    flat = mask.flatten(1)
    return flat.any(1) & ~flat.all(1)
