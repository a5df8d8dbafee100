"""The recipe: every setting of a training run, validated when it is read.

A recipe is a TOML file with the method's name and the sections `[data]`, `[model]`, `[training]` and, where the method
needs models that are trained first, `[auxiliary.NAME]`. Missing settings have defaults here or in the method's
`Config`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from restain.data.augment import Augment
from restain.training.toml import TomlTable, flat

INVISIBLE = (
    "data.loaders",
    "data.root",
    "training.log_every_steps",
    "training.sample_every_steps",
    "training.save_every_steps",
    "training.evaluate_every_steps",
    "training.evaluate_pairs",
    "training.best_by",
)
"""Settings that do not affect the weights."""

LENGTH = ("training.steps", "training.epochs", "training.decay_epochs")
"""Settings of the length of a run; a finished run resumes if they give more steps."""

MOST_STEPS = 10**9
"""Upper limit of steps, of epochs, and of steps between two events."""

Count = Annotated[int, Field(gt=0, le=MOST_STEPS)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST_STEPS)]


class RecipeSection(BaseModel):
    """Immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(RecipeSection):
    """`[data]`: which pairs of tiles become batches, and how."""

    root: str | None = None
    """Folder of pairs, or a CSV file that lists them, where the call names none; relative to the working directory."""
    crop_px: Annotated[int, Field(ge=4, le=2**15, multiple_of=4)] | Literal["whole"] = 512
    """Side of the random square crop, px, a multiple of 4; `whole` takes the whole tile."""
    resize_px: Annotated[int, Field(ge=4, le=2**15)] | None = None
    """Resize whole square tiles to this side, px, before they are cropped; none takes them as they are."""
    batch_size: Count = 1
    """Pairs in a step, over all processes together."""
    augment: Augment = Augment()
    """How pairs are changed at random: mirrored together, the H&E's colours jittered."""
    unpaired: bool = False
    """Draw the IHC independently of the H&E, with a crop of its own; in a recipe file, the default is the method's."""
    loaders: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that read images ahead; 0 reads in the training process."""
    stain: str | None = None
    """Name of the stain, as HER2; kept in the checkpoint."""
    mpp: Annotated[float, Field(ge=0.05, le=10)] | None = None
    """Micrometres per pixel of the tiles; kept in the checkpoint, for tiles as they were resized."""


class TrainingConfig(RecipeSection):
    """`[training]`: length, precision, and what is saved."""

    epochs: CountOrNone = 60
    """Epochs at the full learning rate."""
    decay_epochs: CountOrNone = 10
    """Epochs after those, in which the learning rate falls linearly to zero."""
    steps: Count | None = None
    """Length of the training in steps instead; `epochs` and `decay_epochs` then only give the share of the decay."""
    save_every_steps: Count = 1000
    """Steps between two saved states; what a killed run has to repeat at most."""
    sample_every_steps: CountOrNone = 1000
    """Steps between two pictures of samples; 0 for none."""
    log_every_steps: Count = 50
    """Steps between two lines of the log, each the mean since the line before."""
    evaluate_every_steps: CountOrNone = 0
    """Steps between two looks at held-out pairs (`held_out.jsonl`); 0 for none."""
    evaluate_pairs: Count = 16
    """Held-out pairs that are looked at, spread evenly over all; each cropped in its middle as in training."""
    best_by: Literal["psnr", "dab_error", "positive_dice", "kid"] | None = None
    """The figure by which `best.safetensors` is kept; none is kept without."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; `auto` is bfloat16 where the device profits. Weights and losses stay float32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Keep channels innermost in memory; `auto` does unless the stages are compiled."""
    compile: bool = False
    """Compile the stages of the networks, for long runs at one crop size on a GPU; on a CPU it does not pay."""

    @model_validator(mode="after")
    def _has_a_length(self) -> "TrainingConfig":
        if self.epochs + self.decay_epochs == 0:
            raise ValueError("epochs and decay_epochs are both 0; at least one must be positive")
        return self

    @model_validator(mode="after")
    def _looks_where_it_judges(self) -> "TrainingConfig":
        if self.best_by and not self.evaluate_every_steps:
            raise ValueError(f"best_by is {self.best_by!r}, but nothing is evaluated; set evaluate_every_steps, too")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Length of the training, steps."""
        return self.steps or (self.epochs + self.decay_epochs) * steps_per_epoch

    def decay_steps(self, total_steps: int) -> int:
        """Number of steps in the decay."""
        return round(total_steps * self.decay_epochs / (self.epochs + self.decay_epochs))


class Pretrained(RecipeSection):
    """`[auxiliary.NAME]` with a file: the model exists already."""

    checkpoint: Path
    """A checkpoint trained by the required method; relative to the working directory."""


class Recipe(RecipeSection):
    """One training run, complete."""

    method: str
    """Name of the method."""
    seed: int = 0
    """Every random draw of the run derives from it."""
    data: DataConfig = DataConfig()
    model: SerializeAsAny[BaseModel]
    """Settings of the method, an instance of its `Config`."""
    training: TrainingConfig = TrainingConfig()
    auxiliary: "dict[str, Pretrained | Recipe]" = {}
    """The auxiliary models by name: a checkpoint, or the recipe that trains it."""

    def table(self) -> TomlTable:
        """All settings, as in `recipe.toml` in the run's folder, which can be trained from again."""
        return self.model_dump(mode="json", exclude_none=True)

    def with_steps(self, steps: int) -> "Recipe":
        """The same recipe with a length of `steps`."""
        training = TrainingConfig.model_validate(self.training.model_dump() | {"steps": steps})
        return self.model_copy(update={"training": training})


def identity(table: Mapping[str, Any]) -> TomlTable:
    """The settings that determine the weights, from a recipe's table, under dotted keys."""
    return {key: value for key, value in flat(table).items() if not key.endswith(INVISIBLE)}
