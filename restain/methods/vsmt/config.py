"""Settings of VSMT. The paper's text and its published code disagree in places; each difference is one field here."""

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from restain.methods.base import MethodConfig, Progress
from restain.methods.vsmt.views import ViewSettings

PAPER: dict[str, Any] = {
    "reference": "ihc",
    "normalise_brightness": False,
    "he_positive_probability": 0.0,
    "guidance_distance": "l2",
    "alignment_distance": "l2",
    "guided_discriminator_copied_every": 0,
    "ramp_steps": None,
    "ramp_epochs": 5.0,
    "views": {"rgb_jitter": 0.5, "channel_swap": 0.5, "absolute_low_pass": False},
}
"""What the `paper` profile sets differently; a profile is nothing but a set of defaults."""


class VsmtConfig(MethodConfig):
    """Settings of `vsmt`; the defaults are the published code's, which made the published figures."""

    profile: Literal["published", "paper"] = "published"
    """Which defaults the fields that are not given take: the published code's, or the text's."""
    width: int = Field(64, ge=2, le=4096)
    """Channels of the first convolution of generator and auxiliary models; the discriminators have half as many."""

    discriminator_depth: int = Field(5, ge=2, le=16)
    """Stages of the discriminators; each halves the image, so that 5 need crops of at least 128 px."""

    guidance: bool = True
    """Guide the generator by multi-task features; without it only the baseline's terms remain."""
    alignment: Literal["apm", "ot", "identity"] = "apm"
    """How real regions find their virtual places: active-passive matching, optimal transport, or not at all."""
    structure_enhancement: bool = True
    """Compare regions by the learned modulator M_sf; otherwise by the plain mean of the features in each region."""
    task_gap: bool = True
    """Turn features into guidance by the learned fusion M_ta; otherwise by the mean over the four tasks."""

    clusters: int | Literal["auto"] = 3
    """Semantic classes for active-passive matching, 2 to 5; `auto` picks the best silhouette per image."""
    region_size: Literal[2, 4, 8, 16, 32] = 16
    """Side of an alignment region in feature pixels, which are 4 image pixels wide."""
    transport_epsilon: float = Field(0.05, gt=0)
    """Entropic regularisation of `alignment = "ot"`, in units of cosine distance."""

    reference: Literal["restained", "ihc"] = "restained"
    """The image whose regions are matched with the virtual ones: G(ihc) (published) or the IHC itself (paper)."""
    normalise_brightness: bool = True
    """Scale what the auxiliary models see here to a mean of one half; views are drawn from such an image."""
    auxiliary_normalised: bool = False
    """Scale it so while they are trained, too; the published ones were trained on images as they are."""
    classifier_jitter: bool = False
    """Jitter the H&E's colours while the classifiers are trained; the published ones saw them as they are."""
    he_positive_probability: float = Field(0.25, ge=0, le=1)
    """How often the positive view is the H&E image itself."""
    views: ViewSettings = ViewSettings()
    """How structure- and stain-preserving views are drawn."""
    guidance_distance: Literal["projected_l1", "l2"] = "projected_l1"
    """Distance of student to teacher features: L1 after a learned projector (published) or plain L2 (paper)."""
    alignment_distance: Literal["projected_l1", "l2"] = "projected_l1"
    """Distance in the alignment's two consistency terms; as above."""

    guided_discriminator_copied_every: int = Field(100, ge=0)
    """Steps from one copy of D's weights into D' to the next, the first at step 0; 0: D' learns by itself alone."""

    lambda_alignment_gan: float = Field(2.0, ge=0)
    lambda_nce: float = Field(1.0, ge=0)
    lambda_pyramid: float = Field(15.0, ge=0)
    lambda_structure: float = Field(0.1, ge=0)
    """Weight of the margin InfoNCE that trains the modulator."""
    lambda_guidance: float = Field(15.0, ge=0)
    lambda_spread: float = Field(0.01, ge=0)
    ramp_steps: int | None = Field(20_000, ge=0)
    """Guidance grows as (step / ramp_steps) to the power of `ramp_power` until then; `ramp_epochs` says it in epochs
    instead. The published length is 5 epochs of 4,000 pairs one at a time, whatever the data set."""
    ramp_epochs: float | None = Field(None, ge=0)
    ramp_power: float = Field(10.0, ge=0)

    positions: int = Field(256, ge=2, le=2**20)
    """Places per tap for PatchNCE."""
    structure_temperature: float = Field(0.15, gt=0)
    structure_margin: float = Field(1.2, ge=0)
    lr: float = Field(2e-4, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _profile_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if given.get("ramp_epochs") is not None:
            given = {"ramp_steps": None} | given
        if given.get("ramp_steps") is not None:
            given = {"ramp_epochs": None} | given
        if given.get("profile") != "paper":
            return given
        views = given.get("views", {})
        merged = PAPER["views"] | views if isinstance(views, dict) else views
        return PAPER | given | {"views": merged}

    @model_validator(mode="after")
    def _known_clusters(self) -> "VsmtConfig":
        if self.clusters != "auto" and not 2 <= self.clusters <= 5:
            raise ValueError(f"clusters is {self.clusters}; give 2, 3, 4, 5 or 'auto'")
        return self

    @model_validator(mode="after")
    def _one_ramp(self) -> "VsmtConfig":
        if (self.ramp_steps is None) == (self.ramp_epochs is None):
            found = f"ramp_steps is {self.ramp_steps}, ramp_epochs is {self.ramp_epochs}"
            raise ValueError(f"{found}; give one of the two")
        return self

    @property
    def learns_regions(self) -> bool:
        """Whether there is a modulator to train: spatial alignment on enhanced structure."""
        return self.guidance and self.alignment != "identity" and self.structure_enhancement

    @property
    def learns_alignment(self) -> bool:
        """Whether the alignment step has anything to train."""
        return self.learns_regions or (self.guidance and self.task_gap)

    @property
    def restains(self) -> bool:
        """Whether a step stains the real IHC, too: its regions are matched, or its features compared."""
        return self.reference == "restained" and (self.alignment != "identity" or self.task_gap)

    @property
    def crop_multiple(self) -> int:
        """What the sides of a crop must be multiples of, px: regions fit it, and the patches of the views."""
        region_px = 4 * self.region_size
        if not self.learns_regions:
            return region_px
        fits = math.lcm(region_px, self.views.patches_per_side if self.views.patchwise else 1)
        shuffled = self.views.shuffle_px if self.views.pixel_shuffle else (1,)
        return min(math.lcm(fits, patch_px) for patch_px in shuffled)

    def ramp(self, progress: Progress) -> float:
        """Factor on the guidance loss, 0 to 1."""
        in_epochs = self.ramp_epochs is not None
        done, length = (progress.epoch, self.ramp_epochs) if in_epochs else (progress.step, self.ramp_steps)
        assert length is not None
        return 1.0 if done >= length else (done / length) ** self.ramp_power
