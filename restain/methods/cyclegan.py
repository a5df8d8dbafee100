"""CycleGAN: unpaired translation there and back (Zhu et al., ICCV 2017).

The IHC of a pair is only an example of the stain. The virtual IHC stays faithful because a second generator must
restore the H&E.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.errors import ShapeError
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.distance import l1_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, adam, descend, detached, frozen, total
from restain.networks.blocks import initialise
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig

DISCRIMINATOR_DEPTH = 3
"""Halvings of the PatchGAN, which sees 70 px at a time."""


class CycleGanConfig(MethodConfig):
    """Settings of `cyclegan`; the defaults are the authors'."""

    width: int = Field(64, ge=1, le=4096)
    """Channels of the generators' and the discriminators' first convolution."""
    blocks: int = Field(9, ge=1, le=100)
    """Residual blocks of each generator."""
    lambda_cycle: float = Field(10.0, ge=0)
    """Weight of the L1 cycle consistency, in both directions."""
    lambda_identity: float = Field(0.5, ge=0)
    """Times `lambda_cycle`: weight of the L1 distance between an image in the target stain and what becomes of it."""
    pool: int = Field(50, ge=0, le=10**6)
    """Virtual images of each stain that are kept to show to the discriminator again; 0 shows it only new ones."""
    lr: float = Field(2e-4, gt=0)


class CycleGan(Method):
    """LSGAN + lambda_cycle (cycle L1 + lambda_identity identity L1), in both directions at once."""

    name = "cyclegan"
    Config: ClassVar[type[MethodConfig]] = CycleGanConfig
    unpaired = True

    def __init__(self, config: CycleGanConfig) -> None:
        super().__init__()
        self.config = config
        shape = GeneratorConfig(width=config.width, blocks=config.blocks, antialias=False, spectral_norm=False)
        self.generator, self.back_generator = Generator(shape), Generator(shape)
        self.discriminator, self.he_discriminator = (
            Discriminator(config.width, DISCRIMINATOR_DEPTH, spectral=False, antialias=False) for _ in range(2)
        )
        initialise(self, scheme="normal")
        self.pool, self.he_pool = ImagePool(config.pool), ImagePool(config.pool)

    @classmethod
    def needs(cls, config: CycleGanConfig) -> Needs:
        """Crops that the discriminators can judge."""
        return Needs(crop_px=smallest_px(DISCRIMINATOR_DEPTH))

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam for both generators together, and for both discriminators."""
        pairs = {
            "generators": (self.generator, self.back_generator),
            "discriminators": (self.discriminator, self.he_discriminator),
        }
        return {name: adam(*networks, lr=self.config.lr) for name, networks in pairs.items()}

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """Both generators, then both discriminators."""
        he, ihc = pair.he, pair.ihc
        virtual, same_ihc = self.generator(torch.cat([he, ihc])).chunk(2)
        virtual_he, same_he, cycled_he = self.back_generator(torch.cat([ihc, he, virtual])).chunk(3)
        cycled_ihc = self.generator(virtual_he)
        cycle, identity = self.config.lambda_cycle, self.config.lambda_cycle * self.config.lambda_identity
        with frozen(self.discriminator, self.he_discriminator):
            terms = {
                "gan": lsgan_generator_loss(self.discriminator(virtual)),
                "gan_he": lsgan_generator_loss(self.he_discriminator(virtual_he)),
                "cycle": cycle * l1_loss(cycled_ihc, ihc),
                "cycle_he": cycle * l1_loss(cycled_he, he),
                "identity": identity * l1_loss(same_ihc, ihc),
                "identity_he": identity * l1_loss(same_he, he),
            }
        descend(total(terms.values()), optimizers["generators"])

        shown = self.pool.exchange(virtual, progress.image_generators(pair, "pool"))
        shown_he = self.he_pool.exchange(virtual_he, progress.image_generators(pair, "he_pool"))
        judged = {
            "gan": lsgan_discriminator_loss(*self.discriminator(torch.cat([ihc, shown])).chunk(2)),
            "gan_he": lsgan_discriminator_loss(*self.he_discriminator(torch.cat([he, shown_he])).chunk(2)),
        }
        descend(total(judged.values()), optimizers["discriminators"])
        return detached(judged, "discriminator") | detached(terms, "generator")

    def product(self) -> Generator:
        """The generator from H&E to IHC."""
        return self.generator

    @torch.no_grad()
    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """There and back from the H&E, and the neighbouring section's real IHC with its virtual H&E."""
        virtual = self.generator(pair.he)
        return {
            "H&E": pair.he,
            "virtual": virtual,
            "back to H&E": self.back_generator(virtual),
            "real neighbour": pair.ihc,
            "virtual H&E": self.back_generator(pair.ihc),
        }


class ImagePool(nn.Module):
    """A pool of virtual images of earlier steps for a discriminator (Shrivastava 2017).

    The images are part of the state, so that a resumed run shows the same ones. Under `torchrun` each process has a
    pool of its own, of which the first one's is saved.
    """

    images: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.empty(0, 3, 1, 1))

    def exchange(self, images: Tensor, generators: Iterable[torch.Generator]) -> Tensor:
        """Hand in new images, get as many to show; one after the other.

        While the pool is not full, it keeps a copy and the new image is shown. Then, for one image in two, a random one
        of the pool is shown and the new one takes its place.

        Args:
            images: N x 3 x H x W.
            generators: one per image.

        Returns:
            N x 3 x H x W, without gradient.

        Raises:
            ShapeError: the images have another size than those in the pool.
        """
        images = images.detach()
        if len(self.images) and self.images.shape[1:] != images.shape[1:]:
            raise ShapeError(
                f"the pool holds images of {self.images.shape[-1]} x {self.images.shape[-2]} px, but these are "
                f"{images.shape[-1]} x {images.shape[-2]}; train on crops of one size, or set pool = 0"
            )
        shown = []
        for image, generator in zip(images, generators, strict=True):
            swaps, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            if len(self.images) < self.size:
                kept = image[None].to(self.images)
                self.images = torch.cat([self.images, kept]) if len(self.images) else kept
            elif self.size and swaps < 0.5:
                old = self.images[int(place * self.size)]
                new, image = image, old.to(image, copy=True)
                old.copy_(new)
            shown.append(image)
        return torch.stack(shown)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take the size of the saved images first; how many there are depends on the step."""
        saved = state_dict.get(f"{prefix}images")
        if saved is not None:
            self.images = self.images.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
