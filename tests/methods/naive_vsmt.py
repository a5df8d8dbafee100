"""VSMT's step as it reads on paper, without care: every network runs to its end, nothing is reused, nothing is frozen.

It learns exactly what `restain.methods.vsmt.Vsmt` learns: a test holds the two equal, and `benchmarks/vsmt_step.py`
compares cost.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.alignment import rearrange
from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_generator_loss
from restain.losses.contrastive import patch_nce
from restain.losses.pyramid import gaussian_pyramid_loss
from restain.losses.statistics import spread_loss
from restain.methods.base import Progress, descend, detached, total
from restain.methods.nce import NCE_TAPS
from restain.methods.vsmt import Vsmt
from restain.methods.vsmt.method import GUIDED_TAPS, Evidence
from restain.methods.vsmt.structure import draw_views
from restain.methods.vsmt.tasks import AUXILIARY_TAPS, LEVELS
from restain.networks.blocks import Staged
from restain.networks.sampler import sample_positions


class NaiveVsmt(Vsmt):
    """The complete published profile, one full pass for every use of a feature."""

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """One iteration: discriminator, alignment, its discriminator, generator."""
        self._thaw()
        config = self.config
        virtual = self.generator(pair.he)
        losses = self._judge("discriminator", self.discriminator, pair.ihc, virtual, optimizers)

        if progress.step % 100 == 0:
            self._copy(self.guided_discriminator, self.discriminator)

        evidence = self._evidence(pair, virtual)
        alignment = self.spatial.match(evidence.virtual, evidence.reference, progress.generator("clusters"))
        moved = {tap: rearrange(alignment, feature.detach()) for tap, feature in evidence.reference.items()}
        guidance = self._guidance(_detached(evidence), alignment)
        guided = self.generator(pair.he, inject=guidance)
        terms = {
            "consistency": total(self._alignment_distance(moved[tap], evidence.virtual[tap]) for tap in AUXILIARY_TAPS),
            "structure": config.lambda_structure * self._structure(pair, virtual.detach(), progress),
            "gan": config.lambda_alignment_gan * lsgan_generator_loss(self.guided_discriminator(guided)),
            "nce": config.lambda_nce * self._nce(pair.he, guided, progress),
            "pyramid": config.lambda_pyramid * gaussian_pyramid_loss(guided, pair.ihc),
            "preservation": total(
                self._alignment_distance(guidance[stage], moved[tap]) for stage, tap in LEVELS.items()
            ),
        }
        descend(total(terms.values()), optimizers["alignment"], optimizers["sampler"])
        losses |= detached(terms, "alignment")
        losses |= self._judge("guided_discriminator", self.guided_discriminator, pair.ihc, guided, optimizers)

        evidence = _detached(self._evidence(pair, virtual))
        alignment = self.spatial.match(evidence.virtual, evidence.reference, progress.generator("clusters"))
        guidance = self._guidance(evidence, alignment)
        teacher = full_features(self.generator, pair.he, GUIDED_TAPS, guidance)
        virtual, student = self.generator(pair.he), full_features(self.generator, pair.he, GUIDED_TAPS)
        weight = config.lambda_guidance * config.ramp(progress)
        terms = {
            "gan": lsgan_generator_loss(self.discriminator(virtual)),
            "nce": config.lambda_nce * self._nce(pair.he, virtual, progress),
            "pyramid": config.lambda_pyramid * gaussian_pyramid_loss(virtual, pair.ihc),
            "spread": spread_loss(virtual, pair.ihc, config.lambda_spread),
            "guidance": weight
            * total(self._guidance_distance(student[tap], teacher[tap].detach()) for tap in GUIDED_TAPS),
        }
        descend(total(terms.values()), *(optimizers[name] for name in ("generator", "sampler", "guidance_projector")))
        return losses | detached(terms, "generator")

    @torch.no_grad()
    def _copy(self, to: nn.Module, original: nn.Module) -> None:
        for tensor, source in zip(_tensors(to), _tensors(original), strict=True):
            tensor.copy_(source)

    def _structure(self, pair: Pair, virtual: Tensor, progress: Progress) -> Tensor:
        """Region by region, image by image."""
        config, modulator = self.config, self.spatial.modulator
        assert modulator is not None
        seen = self.tasks.seen(virtual)
        views = draw_views(seen, pair, progress, config.views, config.he_positive_probability)
        temperature, margin = config.structure_temperature, config.structure_margin
        terms = []
        for number in range(len(virtual)):
            regions = []
            for images in (seen, *views):
                features = full_features(self.tasks.ihc_autoencoder, images[number : number + 1], AUXILIARY_TAPS)
                projected = modulator.head(modulator(features["block8"].detach()))[0].flatten(1).T
                regions.append(projected / projected.norm(dim=1, keepdim=True))
            for anchor, positive in zip(regions[0], regions[1], strict=True):
                pull = (anchor @ positive / temperature).exp()
                pushes = torch.stack([((anchor @ negative - margin) / temperature).exp() for negative in regions[2]])
                terms.append(-(pull / (pull + pushes.sum())).log())
        return torch.stack(terms).mean()

    def _thaw(self) -> None:
        self.tasks.requires_grad_(True)

    def _nce(self, source: Tensor, target: Tensor, progress: Progress) -> Tensor:
        query = full_features(self.generator, target, NCE_TAPS)
        key = full_features(self.generator, source, NCE_TAPS)
        positions = sample_positions(key, progress.generator("positions"), self.config.positions)
        queries, keys = self.sampler(query, positions), self.sampler(key, positions)
        return torch.stack([patch_nce(queries[tap], keys[tap]) for tap in NCE_TAPS]).mean()

    def _evidence(self, pair: Pair, virtual: Tensor) -> Evidence:
        restained = self.generator(pair.ihc)
        tasks = self.tasks
        seen = {name: tasks.seen(image) for name, image in (("he", pair.he), ("ihc", pair.ihc))}
        return Evidence(
            he=_joined(tasks.he_classifier, tasks.he_autoencoder, seen["he"]),
            ihc=_joined(tasks.ihc_classifier, tasks.ihc_autoencoder, seen["ihc"]),
            reference=full_features(tasks.ihc_autoencoder, tasks.seen(restained), AUXILIARY_TAPS),
            virtual=full_features(tasks.ihc_autoencoder, tasks.seen(virtual), AUXILIARY_TAPS),
        )


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def full_features(
    network: Staged, x: Tensor, taps: Collection[str], inject: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Features from a pass that runs to the end."""
    return network.forward_with_features(x, taps, inject=inject)[1]


def _joined(classifier: Staged, autoencoder: Staged, images: Tensor) -> dict[str, Tensor]:
    semantics = full_features(classifier, images, AUXILIARY_TAPS)
    structure = full_features(autoencoder, images, AUXILIARY_TAPS)
    return {tap: torch.cat([semantics[tap], structure[tap]], dim=1) for tap in AUXILIARY_TAPS}


def _detached(evidence: Evidence) -> Evidence:
    return Evidence(
        **{
            name: {tap: feature.detach() for tap, feature in getattr(evidence, name).items()}
            for name in ("he", "ihc", "reference", "virtual")
        }
    )
