"""Train a segmenter: an IHC tile to where it is stained, so that its features tell stained from unstained tissue.

PSPStain (Chen et al. 2024) compares such features. Its published weights come without the code that trained them; ours
are trained on the masks that the focal optical density of the training IHC gives, with no label drawn by hand.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.protein import focal_density
from restain.methods.base import Method, MethodConfig, Needs, Progress, adam, descend, detached, total
from restain.networks.segmenter import Segmenter, SegmenterConfig
from restain.stains import from_unit, to_unit
from restain.tensors import full_precision


class SegmentConfig(MethodConfig):
    """Settings of `segment`; the defaults are those that PSPStain's `published` profile asks for."""

    width: int = Field(32, ge=1, le=4096)
    """Channels at full size."""
    unit_range: bool = False
    """Measure the focal density of images in [0, 1] instead of [-1, 1]; must agree with PSPStain's."""
    positive_density: float = Field(0.68, gt=0)
    """Focal density from which a pixel is stained; must agree with PSPStain's."""
    lr: float = Field(1e-3, gt=0)


class Segment(Method):
    """Cross-entropy plus 1 - Dice on the mask of stained pixels; the IHC side alone."""

    name = "segment"
    Config: ClassVar[type[MethodConfig]] = SegmentConfig
    agreed = ("unit_range", "positive_density")

    def __init__(self, config: SegmentConfig) -> None:
        super().__init__()
        self.config = config
        self.segmenter = Segmenter(SegmenterConfig.of_width(config.width))

    @classmethod
    def needs(cls, config: SegmentConfig) -> Needs:
        """Crops of which more than one pixel is left at the coarsest size, to be normalised over."""
        return Needs(crop_px=1 << len(SegmenterConfig().channels), crop_multiple=1)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam for the segmenter."""
        return {"segmenter": adam(self.segmenter, lr=self.config.lr, betas=(0.9, 0.999))}

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """One step of segmentation."""
        mask = self._mask(pair)
        logits = self.segmenter(pair.ihc)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        terms = {
            "cross_entropy": F.cross_entropy(logits, mask[:, 0].long()),
            "dice": dice_loss(logits.softmax(1)[:, 1:], mask.to(logits)),
        }
        descend(total(terms.values()), optimizers["segmenter"])
        return detached(terms, "segmenter")

    def product(self) -> Segmenter:
        """The segmenter."""
        return self.segmenter

    @torch.no_grad()
    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """Real IHC, its mask, and the segmenter's."""
        found = self.segmenter(pair.ihc).float().softmax(1)[:, 1:]
        masks = {"mask": self._mask(pair).float(), "found": found}
        return {"ihc": pair.ihc} | {name: from_unit(mask).expand_as(pair.ihc) for name, mask in masks.items()}

    def _mask(self, pair: Pair) -> Tensor:
        """Where the IHC is stained, N x 1 x H x W, bool."""
        light = to_unit(pair.ihc) if self.config.unit_range else pair.ihc
        return focal_density(light) >= self.config.positive_density


@full_precision
def dice_loss(found: Tensor, mask: Tensor) -> Tensor:
    """1 - 2 |both| / (|found| + |mask|), a pixel added to both counts; N x 1 x H x W each (Milletari et al. 2016)."""
    both = (found * mask).sum((1, 2, 3))
    either = found.sum((1, 2, 3)) + mask.sum((1, 2, 3))
    return (1 - (2 * both + 1) / (either + 1)).mean()
