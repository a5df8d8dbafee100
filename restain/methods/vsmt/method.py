"""The step of VSMT: discriminator, dual alignment, its discriminator, generator.

Every pass is run once. The features of x come with v = G(x); the guided image continues from block1; frozen networks
stop at their last tap; keys and teachers take no gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.alignment import rearrange
from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.contrastive import margin_info_nce
from restain.losses.pyramid import PYRAMID_SMALLEST_PX, gaussian_pyramid_loss
from restain.losses.statistics import spread_loss
from restain.methods.base import (
    AuxiliaryModel,
    Method,
    MethodConfig,
    Needs,
    Progress,
    adam,
    descend,
    detached,
    frozen,
    total,
)
from restain.methods.nce import NCE_TAPS, nce, nce_channels
from restain.methods.vsmt.config import VsmtConfig
from restain.methods.vsmt.fusion import Fusion, Projector, mean_over_tasks
from restain.methods.vsmt.spatial import REGION_TAP, SpatialAlignment
from restain.methods.vsmt.structure import draw_views
from restain.methods.vsmt.tasks import AUXILIARY_TAPS, LEVELS, Tasks
from restain.networks.auxiliary import Autoencoder, Classifier
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.sampler import Sampler, sample_positions
from restain.tensors import full_precision
from restain.workers.memory import return_free_memory

GUIDED_TAPS = ("block1", "block3", "block5")
"""Where the student is compared with the guided teacher."""

FIRST_LEVEL = "block1"
"""The generator is the same with and without guidance up to here."""


@dataclass(frozen=True)
class Evidence:
    """What the frozen models say about one batch; computed once per step, without gradient."""

    he: dict[str, Tensor]
    """Multi-task features of the H&E, N x 8*width x h x w per auxiliary tap."""
    ihc: dict[str, Tensor]
    """Multi-task features of the real IHC, likewise."""
    reference: dict[str, Tensor]
    """Reconstruction features of the image that is matched with the virtual one, N x 4*width x h x w."""
    virtual: dict[str, Tensor]
    """Reconstruction features of the virtual IHC, likewise; none where nothing is matched."""


class Vsmt(Method):
    """Virtual IHC staining with dual-aligned multi-task feature guidance (Xie et al., CVPR 2026).

    Departs from the published code in three places: the second discriminator learns from the current guided image
    instead of an earlier one, because nothing then depends on what a step left behind (the weights that it gets from
    the first one every 100 steps are the same); k-means is spherical, because the similarities that it serves are
    cosines; every operation is per image, so that any batch size works.
    """

    name = "vsmt"
    Config: ClassVar[type[MethodConfig]] = VsmtConfig

    def __init__(
        self,
        config: VsmtConfig,
        he_autoencoder: Autoencoder | None = None,
        he_classifier: Classifier | None = None,
        ihc_autoencoder: Autoencoder | None = None,
        ihc_classifier: Classifier | None = None,
    ) -> None:
        """Take the four trained auxiliary models; they may be left out when `config.guidance` is off."""
        super().__init__()
        self.config = config
        width = config.width
        self.generator = Generator(GeneratorConfig(width=width))
        self.discriminator = Discriminator(width // 2, config.discriminator_depth)
        self.sampler = Sampler(nce_channels(width))
        if not config.guidance:
            return
        if not (he_autoencoder and he_classifier and ihc_autoencoder and ihc_classifier):
            raise TypeError(f"vsmt with guidance needs the auxiliary models {', '.join(self.auxiliary(config))}")
        self.tasks = Tasks(
            he_autoencoder=he_autoencoder,
            he_classifier=he_classifier,
            ihc_autoencoder=ihc_autoencoder,
            ihc_classifier=ihc_classifier,
            width=width,
            normalise=config.normalise_brightness,
        )
        self.spatial = SpatialAlignment(config)
        self.guidance_projector = self._projector(config.guidance_distance)
        if config.learns_alignment:
            self.alignment_projector = self._projector(config.alignment_distance)
        if config.task_gap:
            self.fusion = nn.ModuleDict({stage: Fusion(4 * width) for stage in LEVELS})
            self.guided_discriminator = Discriminator(width // 2, config.discriminator_depth)

    @classmethod
    def auxiliary(cls, config: VsmtConfig) -> dict[str, AuxiliaryModel]:
        """An autoencoder and a classifier for each of H&E and IHC."""
        if not config.guidance:
            return {}
        shared = {"width": config.width, "normalise_brightness": config.auxiliary_normalised}
        data: dict[str, dict[str, Any]] = {
            "reconstruct": {"batch_size": 1},
            "classify": {"batch_size": 2, "crop_px": "whole"},
        }
        if not config.classifier_jitter:
            data["classify"]["augment"] = {"brightness": 0, "contrast": 0, "saturation": 0}
        return {
            f"{side}_{kind}": AuxiliaryModel(
                method,
                model={"side": side} | shared,
                data=data[method],
                training={"epochs": 20, "decay_epochs": 10},
            )
            for side in ("he", "ihc")
            for kind, method in (("autoencoder", "reconstruct"), ("classifier", "classify"))
        }

    @classmethod
    def needs(cls, config: VsmtConfig) -> Needs:
        """Crops that discriminators can halve so often and that hold the pyramid; with guidance, a grid of regions."""
        least = max(smallest_px(config.discriminator_depth), PYRAMID_SMALLEST_PX)
        if not config.guidance:
            return Needs(crop_px=least)
        return Needs(crop_px=max(least, 8 * config.region_size), crop_multiple=config.crop_multiple)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam for each part that the switches leave to learn."""
        parts: dict[str, list[nn.Module]] = {
            "generator": [self.generator],
            "discriminator": [self.discriminator],
            "sampler": [self.sampler],
        }
        if self.config.guidance:
            parts["guidance_projector"] = [self.guidance_projector]
        if self.config.learns_alignment:
            parts["alignment"] = [self.spatial, self.alignment_projector]
        if self.config.guidance and self.config.task_gap:
            parts["alignment"].append(self.fusion)
            parts["guided_discriminator"] = [self.guided_discriminator]
        return {
            name: adam(*modules, lr=self.config.lr)
            for name, modules in parts.items()
            if any(weight.requires_grad for module in modules for weight in module.parameters())
        }

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """One iteration: discriminator, alignment (M_sf, M_ta), its discriminator, generator."""
        config = self.config
        virtual, student = self.generator.forward_with_features(pair.he, {*NCE_TAPS, *GUIDED_TAPS})
        positions = sample_positions(
            {tap: student[tap] for tap in NCE_TAPS}, progress.generator("positions"), config.positions
        )
        losses = self._judge("discriminator", self.discriminator, pair.ihc, virtual, optimizers)
        self._copy_discriminator(progress)
        teacher = None
        if config.guidance:
            evidence = self._gather(pair, virtual.detach())
            if config.learns_alignment:
                losses |= self._align(pair, virtual.detach(), student, positions, evidence, optimizers, progress)
            teacher = self._teach(student[FIRST_LEVEL], evidence, progress)
        return losses | self._stain(pair, virtual, student, teacher, positions, optimizers, progress)

    def align(self, he: Tensor, ihc: Tensor, generator: torch.Generator) -> Tensor:
        """Alignment matrix A of H&E and real IHC (N x 3 x H x W each), N x regions x regions, without learning."""
        if not self.config.guidance:
            raise ValueError("a method without guidance has no alignment; set guidance = true")
        with torch.no_grad():
            virtual = self.tasks.ihc_structure(self.generator(he), (REGION_TAP,))
            reference = self.tasks.ihc_structure(self._reference(ihc), (REGION_TAP,))
            return self.spatial.match(virtual, reference, generator)

    def product(self) -> Generator:
        """The generator; everything else is for training only."""
        return self.generator

    def _judge(
        self,
        name: str,
        discriminator: Discriminator,
        real: Tensor,
        virtual: Tensor,
        optimizers: Mapping[str, Optimizer],
    ) -> dict[str, Tensor]:
        """Teach a discriminator to tell real from virtual."""
        real_score, virtual_score = discriminator(torch.cat([real, virtual.detach()])).chunk(2)
        loss = lsgan_discriminator_loss(real_score, virtual_score)
        descend(loss, optimizers[name])
        return {f"{name}/gan": loss.detach()}

    def _copy_discriminator(self, progress: Progress) -> None:
        """Copy the weights of D to D' when due, so that it does not fall behind; its optimiser is unchanged."""
        every = self.config.guided_discriminator_copied_every
        if every and progress.step % every == 0 and self.config.guidance and self.config.task_gap:
            self.guided_discriminator.load_state_dict(self.discriminator.state_dict())

    def _gather(self, pair: Pair, virtual: Tensor) -> Evidence:
        """Ask the frozen models, each image once, and none of what is not read."""
        ihc = self.tasks.ihc(pair.ihc)
        if self.config.restains:
            reference = self.tasks.ihc_structure(self._reference(pair.ihc))
        else:
            reference = {tap: feature.chunk(2, dim=1)[1] for tap, feature in ihc.items()}
        structure = {} if self.config.alignment == "identity" else self.tasks.ihc_structure(virtual)
        return Evidence(he=self.tasks.he(pair.he), ihc=ihc, reference=reference, virtual=structure)

    @torch.no_grad()
    def _reference(self, ihc: Tensor) -> Tensor:
        """The image whose regions are matched: G(y) in the published code, y in the text."""
        return self.generator(ihc) if self.config.reference == "restained" else ihc

    def _guidance(self, evidence: Evidence, alignment: Tensor) -> dict[str, Tensor]:
        """F_sta: what to add to the generator's features at each level."""
        guidance = {}
        for stage, tap in LEVELS.items():
            ihc = rearrange(alignment, evidence.ihc[tap])
            fuse = self.fusion[stage] if self.config.task_gap else mean_over_tasks
            guidance[stage] = fuse(evidence.he[tap], ihc)
        return guidance

    def _align(
        self,
        pair: Pair,
        virtual: Tensor,
        student: Mapping[str, Tensor],
        positions: Mapping[str, Tensor],
        evidence: Evidence,
        optimizers: Mapping[str, Optimizer],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Train modulator (M_sf) and fusion (M_ta) by the result of the guided generator; G is unchanged."""
        config = self.config
        terms: dict[str, Tensor] = {}
        alignment = self.spatial.match(evidence.virtual, evidence.reference, progress.generator("clusters"))
        moved = {tap: rearrange(alignment, feature) for tap, feature in evidence.reference.items()}
        if config.learns_regions:
            terms["consistency"] = total(
                self._alignment_distance(moved[tap], evidence.virtual[tap]) for tap in AUXILIARY_TAPS
            )
            terms["structure"] = config.lambda_structure * self._structure_loss(pair, virtual, evidence, progress)
        if not config.task_gap:
            descend(total(terms.values()), optimizers["alignment"])
            return detached(terms, "alignment")

        known = {tap: feature.detach() for tap, feature in student.items()}
        guidance = self._guidance(evidence, alignment)
        with frozen(self.generator, self.guided_discriminator):
            guided, _ = self.generator.forward_with_features(known[FIRST_LEVEL], (), inject=guidance, after=FIRST_LEVEL)
            query = self.generator.features(guided, NCE_TAPS)
            terms |= {
                "gan": config.lambda_alignment_gan * lsgan_generator_loss(self.guided_discriminator(guided)),
                "nce": config.lambda_nce * nce(self.sampler, query, known, positions),
                "pyramid": config.lambda_pyramid * gaussian_pyramid_loss(guided, pair.ihc),
                "preservation": total(
                    self._alignment_distance(guidance[stage], moved[tap]) for stage, tap in LEVELS.items()
                ),
            }
        if guided.device.type == "cpu":
            return_free_memory()  # now the step has the most in use
        descend(total(terms.values()), optimizers["alignment"], optimizers["sampler"])
        judged = self._judge("guided_discriminator", self.guided_discriminator, pair.ihc, guided, optimizers)
        return detached(terms, "alignment") | judged

    def _structure_loss(self, pair: Pair, virtual: Tensor, evidence: Evidence, progress: Progress) -> Tensor:
        """L_mcl: regions of the virtual IHC are like its structure-preserving view, unlike its stain-preserving one."""
        config = self.config
        views = draw_views(self.tasks.seen(virtual), pair, progress, config.views, config.he_positive_probability)
        features = self.tasks.views(torch.cat(views), (REGION_TAP,))
        projected = self.spatial.projected(torch.cat([evidence.virtual[REGION_TAP], features[REGION_TAP]]))
        anchor, positive, negative = projected.chunk(3)
        return margin_info_nce(anchor, positive, negative, config.structure_temperature, config.structure_margin)

    @torch.no_grad()
    def _teach(self, first: Tensor, evidence: Evidence, progress: Progress) -> dict[str, Tensor]:
        """The teacher's features: the generator with guidance from the alignment as it has just been updated."""
        alignment = self.spatial.match(evidence.virtual, evidence.reference, progress.generator("clusters"))
        guidance = self._guidance(evidence, alignment)
        return self.generator.features(first, GUIDED_TAPS, inject=guidance, after=FIRST_LEVEL)

    def _stain(
        self,
        pair: Pair,
        virtual: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor] | None,
        positions: Mapping[str, Tensor],
        optimizers: Mapping[str, Optimizer],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Train the generator on the baseline's terms and towards the teacher's features."""
        config = self.config
        query = self.generator.features(virtual, NCE_TAPS)
        with frozen(self.discriminator):
            terms = {
                "gan": lsgan_generator_loss(self.discriminator(virtual)),
                "nce": config.lambda_nce * nce(self.sampler, query, student, positions),
                "pyramid": config.lambda_pyramid * gaussian_pyramid_loss(virtual, pair.ihc),
                "spread": spread_loss(virtual, pair.ihc, config.lambda_spread),
            }
        if teacher is not None:
            weight = config.lambda_guidance * config.ramp(progress)
            terms["guidance"] = weight * total(
                self._guidance_distance(student[tap], teacher[tap]) for tap in GUIDED_TAPS
            )
        learning = [optimizers[name] for name in ("generator", "sampler", "guidance_projector") if name in optimizers]
        descend(total(terms.values()), *learning)
        return detached(terms, "generator")

    def _projector(self, distance: str) -> nn.Module:
        return Projector(4 * self.config.width) if distance == "projected_l1" else nn.Identity()

    def _guidance_distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        project = self.guidance_projector
        return feature_distance(project(student), project(teacher), self.config.guidance_distance)

    def _alignment_distance(self, features: Tensor, target: Tensor) -> Tensor:
        project = self.alignment_projector
        return feature_distance(project(features), project(target).detach(), self.config.alignment_distance)


@full_precision
def feature_distance(features: Tensor, target: Tensor, kind: str) -> Tensor:
    """L1 (published profile, after projection) or mean squared difference (paper profile)."""
    distance = F.l1_loss if kind == "projected_l1" else F.mse_loss
    return distance(features, target)
