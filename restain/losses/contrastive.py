"""Contrastive losses: a feature must be nearer to its partner than to features of other positions."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from restain.alignment import TINY, region_similarity
from restain.tensors import full_precision, same_shape


@full_precision
def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """PatchNCE: match each position among all positions of the same image (Park et al. 2020, Eq. 3).

    Args:
        query: features of the output at P places, of length 1, B x P x C.
        key: features of the input at the same places, of length 1, B x P x C. It takes no gradient.
        temperature: divides the cosines; small means only the hardest negatives count.

    Raises:
        ShapeError: the two shapes differ.
    """
    same_shape(query=query, key=key)
    logits = query @ key.detach().mT / temperature
    place = torch.arange(query.shape[1], device=query.device).expand(query.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), place.flatten())


@full_precision
def adaptive_patch_nce(
    query: Tensor,
    key: Tensor,
    evenness: float,
    temperature: float = 0.07,
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """PatchNCE for images that are not quite registered: consistent positions weigh more (ASP; Li et al. 2023, Eq. 5).

    A place weighs `evenness + (1 - evenness) * max(cosine, 0)`, where the cosine is that of query and key; the weights
    are then brought to a mean of 1 over all places of the batch, so that an image that agrees more counts more than one
    that agrees less. They take no gradient. At an evenness of 1 this is `patch_nce`; at 0 a batch where no place agrees
    gives 0.

    Args:
        query: features of the virtual IHC at P places, of length 1, B x P x C.
        key: features of the real IHC at the same places, of length 1, B x P x C. It takes no gradient.
        evenness: 1 weighs all positions equally, 0 only consistent ones.
        temperature: divides the cosines.
        mean: takes that mean, if other processes have parts of the batch.

    Raises:
        ShapeError: the two shapes differ.
    """
    same_shape(query=query, key=key)
    cosines = query @ key.detach().mT
    place = torch.arange(query.shape[1], device=query.device).expand(query.shape[:2])
    losses = F.cross_entropy(cosines.mT / temperature, place, reduction="none")
    agreement = cosines.detach().diagonal(dim1=1, dim2=2).relu()
    weights = evenness + (1 - evenness) * agreement
    return (weights / mean(weights).clamp_min(TINY) * losses).mean()


@full_precision
def margin_info_nce(
    anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float = 0.15, margin: float = 1.2
) -> Tensor:
    """Keep structure and drop stain: InfoNCE with a margin on the negatives (VSMT, L_mcl).

    An anchor must be nearer to the same region of the positive than to any region of the negative. The margin ignores
    negatives that are far enough, so that features need not lose all information on the stain.

    Args:
        anchor: features of the virtual IHC, B x C x h x w, of any length.
        positive: features of a view with the same structure, B x C x h x w.
        negative: features of a view with the same stain and another structure, B x C x h x w.
        temperature: divides the cosines.
        margin: subtracted from the cosines of the negatives.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(anchor=anchor, positive=positive, negative=negative)
    near = F.cosine_similarity(anchor, positive, dim=1, eps=TINY).flatten(1) / temperature
    far = (region_similarity(anchor, negative) - margin) / temperature
    return F.softplus(far.logsumexp(-1) - near).mean()  # = -log(e^near / (e^near + sum e^far))
