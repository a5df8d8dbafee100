"""Train an auxiliary classifier: a tile to its grade, so that its features carry the stain's meaning (VSMT, stage one).

A ResNet-18 with ImageNet weights may teach it (Hinton et al. 2015): it learns jointly at a fifth of the rate, and its
softened answers are the target. Without such weights at hand, plain cross-entropy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.errors import CheckpointError, MissingError
from restain.methods.base import Method, MethodConfig, Needs, Progress, adam, descend
from restain.networks.auxiliary import AuxiliaryConfig, Classifier
from restain.networks.resnet import ResNet18
from restain.stains import normalise_brightness


class ClassifyConfig(MethodConfig):
    """Settings of `classify`; the defaults are VSMT's, without the teacher."""

    side: Literal["he", "ihc"] = "he"
    """Which image of a pair to learn from."""
    width: int = Field(64, ge=1, le=4096)
    """Channels of the first convolution."""
    lr: float = Field(2e-4, gt=0)
    normalise_brightness: bool = False
    """Scale each image to a mean of one half first; the published models learned from images as they are."""
    teacher: Path | None = None
    """A public ImageNet ResNet-18 weight file (`resnet18-*.pth`); none: plain cross-entropy."""
    temperature: float = Field(4.0, gt=0)
    """Softens the teacher's answers."""
    distillation: float = Field(0.99, ge=0, le=1)
    """Share of the teacher in the loss; the rest is cross-entropy."""


class Classify(Method):
    """Cross-entropy on four grades, with or without a distilled teacher."""

    name = "classify"
    Config: ClassVar[type[MethodConfig]] = ClassifyConfig
    agreed = ("side", "width", "normalise_brightness")
    reads_grades = True

    def __init__(self, config: ClassifyConfig) -> None:
        super().__init__()
        self.config = config
        self.classifier = Classifier(AuxiliaryConfig(width=config.width))
        self.teacher = _load_teacher(config.teacher) if config.teacher else None

    @classmethod
    def needs(cls, config: ClassifyConfig) -> Needs:
        """Crops of which more than one pixel is left at a sixteenth of the size, to be normalised over."""
        return Needs(crop_px=17, crop_multiple=1)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam for the classifier and, at a fifth of the rate, for the teacher."""
        optimizers: dict[str, Optimizer] = {"classifier": adam(self.classifier, lr=self.config.lr)}
        if self.teacher is not None:
            optimizers["teacher"] = adam(self.teacher, lr=self.config.lr / 5)
        return optimizers

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The teacher learns from the grades; the classifier from the grades and the teacher."""
        images = self._images(pair)
        if self.teacher is None:
            loss = F.cross_entropy(self.classifier(images).float(), pair.grade)
            descend(loss, optimizers["classifier"])
            return {"classifier/cross_entropy": loss.detach()}
        answer = self.teacher(images).float()
        teacher_loss = F.cross_entropy(answer, pair.grade)
        descend(teacher_loss, optimizers["teacher"])
        logits = self.classifier(images).float()
        terms = {
            "distillation": self.config.distillation
            * distillation_loss(logits, answer.detach(), self.config.temperature),
            "cross_entropy": (1 - self.config.distillation) * F.cross_entropy(logits, pair.grade),
        }
        descend(terms["distillation"] + terms["cross_entropy"], optimizers["classifier"])
        return {"teacher/cross_entropy": teacher_loss.detach()} | {
            f"classifier/{name}": term.detach() for name, term in terms.items()
        }

    def product(self) -> Classifier:
        """The classifier."""
        return self.classifier

    @torch.no_grad()
    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """The images that it grades."""
        return {self.config.side: self._images(pair)}

    def _images(self, pair: Pair) -> Tensor:
        images = pair.he if self.config.side == "he" else pair.ihc
        return normalise_brightness(images) if self.config.normalise_brightness else images


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened answers, mean over images; both N x classes (Hinton et al. 2015)."""
    student_log = F.log_softmax(logits / temperature, dim=1)
    teacher_log = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


def _load_teacher(path: Path) -> ResNet18:
    if not path.is_file():
        raise MissingError(
            f"teacher weights {path} not found; give an ImageNet file for ResNet-18, or leave out `teacher`"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        body = {name: weight for name, weight in weights.items() if not name.startswith("fc.")}
        teacher = ResNet18(Classifier.grades)
        missing, unexpected = teacher.load_state_dict(body, strict=False)
    except Exception as error:  # torch raises many kinds for a file that is no weight file
        raise CheckpointError(f"{path} is no ResNet-18 weight file: {error}") from error
    if unexpected or set(missing) != {"fc.weight", "fc.bias"}:
        raise CheckpointError(f"{path} is no ResNet-18 weight file: its names do not fit")
    return teacher
