"""Prototypes: mean features of stained and unstained tissue, compared between neighbouring sections."""

from torch import Tensor
from torch.nn import functional as F

from restain.alignment import TINY
from restain.tensors import full_precision

NOTHING = 1e-5
"""Added to the pixel count of a class, so that the prototype of an empty class is 0."""


def class_prototypes(features: Tensor, shares: Tensor) -> Tensor:
    """Average the features of each class.

    Args:
        features: N x C x H x W.
        shares: membership of each pixel in each class, N x K x H x W, at least 0.

    Returns:
        N x K x C.
    """
    members = shares.flatten(2)
    return (members @ features.flatten(2).mT) / (members.sum(2, keepdim=True) + NOTHING)


@full_precision
def prototype_loss(features: Tensor, logits: Tensor, masks: Tensor, softmaxes: int = 1) -> Tensor:
    """Classify the pixels of each of two sections by the other one's prototypes (PSPStain, CTPC; Chen et al. 2024).

    A prototype is the mean of a section's features, weighted by the segmenter's own answer; the classes' scores at a
    pixel of the other section are the cosines with the two. Cross-entropy with the masks, mean over all pixels of both.

    Args:
        features: of a virtual IHC and its neighbour, 2 x C x H x W.
        logits: output of the segmenter, unstained and stained, 2 x 2 x H x W.
        masks: where each section is stained, 2 x 1 x H x W, bool.
        softmaxes: number of softmaxes between cosines and cross-entropy: usually 1; with 2, as in the published code,
            probabilities are used as scores.
    """
    prototypes = class_prototypes(features, logits.softmax(1)).flip(0)
    directions = F.normalize(features.flatten(2), dim=1, eps=TINY)
    scores = F.normalize(prototypes, dim=2, eps=TINY) @ directions  # 2 x 2 x HW
    for _ in range(softmaxes - 1):
        scores = scores.softmax(1)
    return F.cross_entropy(scores, masks.flatten(1).long())
