from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from restain.data.pairs import Pair
from restain.errors import ConfigError
from restain.methods.base import Progress
from restain.methods.vsmt import VsmtConfig
from restain.training import Recipe, load_recipe, train
from restain.training.config import Pretrained, identity
from restain.training.run import build
from restain.training.shelf import packaged_recipes
from restain.training.toml import write_toml

RECIPES = list(packaged_recipes().values())
COMPLETE = next(path for path in RECIPES if path.stem == "vsmt-mist-her2")
Write = Callable[..., Path]


def named(path: Path) -> str:
    return path.stem


def noise(count: int, side: int) -> Pair:
    draws = torch.Generator().manual_seed(0)
    he, ihc = (torch.rand(count, 3, side, side, generator=draws) * 2 - 1 for _ in range(2))
    grade, index = torch.arange(count) % 4, torch.arange(count)
    density = torch.rand(count, 1, side, side, generator=draws)
    return Pair(he, ihc, grade, index, tuple(map(str, range(count))), density)


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_every_recipe_is_what_its_name_says_and_steps(path: Path) -> None:
    """On drawn noise, as narrow and small as it can be; auxiliary models are not trained."""
    recipe = load_recipe(path)
    family = path.stem.partition("-")[0]
    method = {"fastcut": "cut", "restain": "registered"}.get(family, family)
    assert recipe.method == method
    narrow = load_recipe(path, ["model.width=2"] + ["model.positions=16"] * hasattr(recipe.model, "positions"))
    recipes = {name: choice for name, choice in narrow.auxiliary.items() if isinstance(choice, Recipe)}
    auxiliary = {name: build(choice, {}).product().requires_grad_(False).eval() for name, choice in recipes.items()}
    learning = build(narrow, auxiliary).train()
    needs = learning.needs(narrow.model)
    side = -(-max(needs.crop_px, 32) // needs.crop_multiple) * needs.crop_multiple
    assert isinstance(narrow.data.crop_px, str) or narrow.data.crop_px >= side
    losses = learning.step(noise(needs.images, side), learning.optimizers(), Progress(0, 0, 10, 5))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_run_can_be_repeated_from_the_recipe_in_its_folder(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    resolved = tmp_path / "recipe.toml"
    resolved.write_text(write_toml(recipe.table()))
    assert load_recipe(resolved) == recipe


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.endswith("-tiny")], ids=named)
def test_tiny_recipes_train(path: Path, tmp_path: Path, tiles: Path) -> None:
    one_step = [f"auxiliary.{name}.training.steps=1" for name in load_recipe(path).auxiliary]
    assert train(load_recipe(path, one_step), tiles, tmp_path / "run", steps=1).is_file()


ROWS = {
    "no-guidance": {"model.guidance": False},
    "no-alignment": {"model.alignment": "identity", "model.task_gap": False},
    "spatial-only": {"model.task_gap": False},
    "task-gap-only": {"model.alignment": "identity"},
    "no-structure-enhancement": {"model.structure_enhancement": False},
    "optimal-transport": {"model.alignment": "ot"},
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_ablation_differs_from_the_complete_method_in_its_switch_alone(row: str) -> None:
    complete = identity(load_recipe(COMPLETE).table())
    other = identity(load_recipe(COMPLETE.with_stem(f"vsmt-mist-her2-{row}")).table())
    trains_alike = {key: value for key, value in other.items() if complete.get(key) != value}
    assert trains_alike == ROWS[row]
    gone = {key.split(".")[0] for key in complete.keys() - other.keys()}
    assert gone == ({"auxiliary"} if row == "no-guidance" else set())


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith("vsmt")], ids=named)
def test_views_do_not_move_tissue_between_regions(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe.model, VsmtConfig)
    assert recipe.data.crop_px != "whole"
    regions = recipe.data.crop_px // (4 * recipe.model.region_size)
    assert recipe.model.views.patches_per_side % regions == 0 or not recipe.model.learns_regions
    if path.stem == "vsmt-small":
        assert recipe.model.views.patches_per_side == regions


PUBLISHED = {
    "cut": (256, 1, 200, 200, 2e-4, True),
    "fastcut": (256, 1, 150, 50, 2e-4, True),
    "cyclegan": (256, 1, 100, 100, 2e-4, True),
    "pix2pix": (256, 1, 100, 100, 2e-4, False),
    "asp": (512, 1, 30, 10, 2e-4, False),
    "pspstain": (512, 4, 80, 0, 1e-4, False),
}
"""Crop, batch, epochs at the full rate and of the decay, rate, and whether the IHC is drawn independently."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_authors_settings(name: str) -> None:
    recipe = load_recipe(f"{name}-mist-her2")
    data, training, lr = recipe.data, recipe.training, vars(recipe.model)["lr"]
    found = (data.crop_px, data.batch_size, training.epochs, training.decay_epochs, lr, data.unpaired)
    assert found == PUBLISHED[name]
    assert data.augment.flips == "left-right"
    jitter = (data.augment.brightness, data.augment.contrast, data.augment.saturation)
    assert jitter == ((0.3, 0.3, 0.2) if name == "pspstain" else (0, 0, 0))


def test_published_lengths() -> None:
    recipe = load_recipe(COMPLETE)
    assert (recipe.training.epochs, recipe.training.decay_epochs) == (60, 10)
    assert (recipe.data.crop_px, recipe.data.batch_size) == (512, 1)
    classifier, autoencoder = recipe.auxiliary["ihc_classifier"], recipe.auxiliary["ihc_autoencoder"]
    assert isinstance(classifier, Recipe)
    assert isinstance(autoencoder, Recipe)
    assert (classifier.data.crop_px, classifier.data.batch_size) == ("whole", 2)
    assert (autoencoder.training.epochs, autoencoder.training.decay_epochs) == (20, 10)


def test_only_methods_that_need_no_pairs_learn_without_them(write_recipe: Write) -> None:
    assert load_recipe(write_recipe("cyclegan")).data.unpaired
    assert not load_recipe(write_recipe("cyclegan", data={"unpaired": False})).data.unpaired
    assert not load_recipe(write_recipe("pix2pix")).data.unpaired
    with pytest.raises(ConfigError, match=r"unpaired in \[data\] is true, but pix2pix trains on pairs; remove it"):
        load_recipe(write_recipe("pix2pix"), ["data.unpaired=true"])


MISTAKES = [
    ({"model": {"width": 10**19}}, r"width in \[model\]: input should be less than or equal to 4096, got 1000000"),
    ({"model": {"blocks": 10**9}}, r"blocks in \[model\]: input should be less than or equal to 100"),
    ({"model": {"lr": float("nan")}}, r"lr in \[model\]: .*, got nan"),
    ({"model": {"lr": float("inf")}}, r"lr in \[model\]: input should be a finite number, got inf"),
    (
        {"training": {"epochs": 10**30}},
        r"epochs in \[training\]: input should be less than or equal to 10000",
    ),
    ({"data": {"loaders": 100_000}}, r"loaders in \[data\]: input should be less than or equal to 256, got 100000"),
    ({"data": {"stain": ["x"] * 1000}}, r"stain in \[data\]: input should be a valid string, got \['x', .{,80}\.\.\.$"),
    ({"mehtod": "cut"}, r"unknown key 'mehtod'; did you mean 'method'\?"),
    ({"model": {"lamda_nce": 1}}, r"unknown key 'lamda_nce' in \[model\]; did you mean 'lambda_nce'\?"),
    ({"data": {"crop": 64}}, r"unknown key 'crop' in \[data\]; did you mean 'crop_px'\?"),
    (
        {"data": {"augment": {"contrasts": 1}}},
        r"unknown key 'contrasts' in \[data.augment\]; did you mean 'contrast'\?",
    ),
    ({"trainings": {"steps": 1}}, r"unknown key 'trainings'; did you mean 'training'\?"),
    ({"training": {"steps": 0}}, r"steps in \[training\]: input should be greater than 0, got 0"),
    ({"training": {"steps": "many"}}, r"steps in \[training\]: .*valid integer.*, got 'many'"),
    ({"training": {"precision": "float16"}}, r"precision in \[training\]: .*'auto', 'float32' or 'bfloat16', got"),
    ({"training": {"epochs": 0, "decay_epochs": 0}}, r"\[training\]: epochs and decay_epochs are both 0"),
    ({"data": {"crop_px": 66}}, r"crop_px in \[data\]: .*multiple of 4, got 66 or .*'whole', got 66"),
    ({"data": {"mpp": 466}}, r"mpp in \[data\]: .*less than or equal to 10, got 466"),
    ({"training": 3}, r"training must be a section, \[training\], not 3"),
    ({"method": "vsmtt"}, r"unknown method 'vsmtt'; did you mean 'vsmt'\?"),
    ({"method": "x"}, r"unknown method 'x'; known: .*, classify, .*cut, .*reconstruct, .*vsmt"),
    ({"auxiliary": {"teacher": {"seed": 1}}}, r"unknown model \[auxiliary.teacher\]; the method needs none"),
]


@pytest.mark.parametrize(("change", "words"), MISTAKES)
def test_a_mistake_is_named_with_its_file_section_and_key(
    change: dict[str, Any], words: str, write_recipe: Write
) -> None:
    with pytest.raises(ConfigError, match=rf"cut.toml: .*{words}"):
        load_recipe(write_recipe("cut", **change))


VSMT_MISTAKES = [
    ("auxiliary.he_clasifier.seed=1", r"unknown model \[auxiliary.he_clasifier\]; did you mean 'he_classifier'\?"),
    (
        "auxiliary.he_classifier.model.widht=1",
        r"unknown key 'widht' in \[auxiliary.he_classifier.model\]; did you mean 'w",
    ),
    ("auxiliary.he_classifier.training.steps=-1", r"steps in \[auxiliary.he_classifier.training\]: .*got -1"),
    ("auxiliary.he_classifier.method=cut", r"method in \[auxiliary.he_classifier\] must be 'classify', not 'cut'"),
    (
        "auxiliary.he_classifier.checkpoint=none.pt",
        r"checkpoint in \[auxiliary.he_classifier\]: no file none.pt; leave",
    ),
    (
        "auxiliary.he_autoencoder.model.side=ihc",
        r"side in \[auxiliary.he_autoencoder.model\] must be 'he' as in vsmt, which reads .*, not 'ihc'; remove it",
    ),
    ("auxiliary.he_autoencoder.model.width=8", r"width in .* must be 2 as in vsmt, .*, not 8; remove it"),
    ("auxiliary.ihc_classifier.model.normalise_brightness=true", "normalise_brightness in .* must be False as in vsmt"),
    ("model.views.hed_jiter=1", r"unknown key 'hed_jiter' in \[model.views\]; did you mean 'hed_jitter'\?"),
    ("model.clusters=9", r"\[model\]: clusters is 9; give 2, 3, 4, 5 or 'auto'"),
]


@pytest.mark.parametrize(("setting", "words"), VSMT_MISTAKES)
def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(setting: str, words: str, write_recipe: Write) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(write_recipe("vsmt"), [setting])
    assert str(caught.value).startswith("overrides: ")


def test_what_a_segmenter_calls_stained_must_be_what_pspstain_does(write_recipe: Write) -> None:
    path = write_recipe("pspstain")
    with pytest.raises(
        ConfigError, match=r"positive_density in \[auxiliary.segmenter.model\] must be 0.68 .*, not 0.5"
    ):
        load_recipe(path, ["auxiliary.segmenter.model.positive_density=0.5"])
    both = ["model.positive_density=0.5", "auxiliary.segmenter.model.positive_density=0.5"]
    assert load_recipe(path, both)


NEEDS = [
    ("pix2pix", "model.depth=6", r"crop_px in \[data\] is 32, .* pix2pix needs a multiple of 64; give one, or fewer"),
    ("tdkstain", "model.scales=3", r"crop_px in \[data\] is 32, .* tdkstain needs at least 128; crop larger, or"),
    ("cyclegan", "data.crop_px=28", r"crop_px in \[data\] is 28, .* cyclegan needs at least 32; crop larger, or"),
    (
        "simgan",
        "data.batch_size=1",
        r"batch_size in \[data\] is 1, but simgan compares the images of a batch; .* least 2",
    ),
    (
        "pspstain",
        "data.crop_px=40",
        r"crop_px in \[data\] is 40, but with these settings pspstain needs at least 41; crop",
    ),
    (
        "pspstain",
        "model.structure_scales=5",
        r"crop_px in \[data\] is 44, .* needs at least 161; .*fewer stages or scales",
    ),
    ("asp", "model.discriminator_depth=5", r"crop_px in \[data\] is 36, .* asp needs at least 128; crop larger, or"),
    ("asp", "data.crop_px=32", r"crop_px in \[data\] is 32, .* asp needs at least 33"),
    ("vsmt", "data.crop_px=72", r"crop_px in \[data\] is 72, .* vsmt needs a multiple of 16; give one, or fewer"),
    ("vsmt", "model.region_size=16", r"crop_px in \[data\] is 64, .* vsmt needs at least 128; crop larger, .*smaller"),
    ("simgan", "data.crop_px=28", r"crop_px in \[data\] is 28, .* simgan needs at least 32"),
    ("cut", "data.crop_px=28", r"crop_px in \[data\] is 28, .* cut needs at least 32"),
    ("reconstruct", "data.crop_px=4", r"crop_px in \[data\] is 4, .* reconstruct needs at least 8"),
    ("classify", "data.crop_px=16", r"crop_px in \[data\] is 16, .* classify needs at least 17"),
    ("segment", "data.crop_px=28", r"crop_px in \[data\] is 28, .* segment needs at least 32"),
    ("vsmt", "model.views.patches_per_side=6", r"crop_px in \[data\] is 64, .* vsmt needs a multiple of 48; .*patches"),
    ("vsmt", "model.views.shuffle_px={12 = 1}", r"crop_px in \[data\] is 64, .* a multiple of 48; .*patches"),
    ("vsmt", "auxiliary.he_classifier.data.crop_px=16", r"crop_px in \[auxiliary.he_classifier.data\] is 16, .* 17"),
]


@pytest.mark.parametrize(("method", "setting", "words"), NEEDS)
def test_batches_that_a_method_cannot_learn_from_are_refused_at_once(
    method: str, setting: str, words: str, write_recipe: Write
) -> None:
    path = write_recipe(method)
    with pytest.raises(ConfigError, match=words):
        load_recipe(path, [setting])
    alone = [setting, "model.lambda_correlation=0"]
    assert setting != "data.batch_size=1" or load_recipe(path, alone), "without the term a single image will do"


def test_what_a_method_needs_is_what_its_step_needs(small: Callable[..., Recipe], tiles: Path, tmp_path: Path) -> None:
    least = {"structure_scales": 2, "discriminator_depth": 2}
    train(small("pspstain", model=least, data={"crop_px": 36}), tiles, tmp_path / "pspstain", steps=1)
    train(small("asp", model={"discriminator_depth": 2}, data={"crop_px": 36}), tiles, tmp_path / "asp", steps=1)
    train(small("simgan", data={"crop_px": 32, "batch_size": 2}), tiles, tmp_path / "simgan", steps=1)
    for method, crop_px in (("cut", 32), ("reconstruct", 8), ("classify", 20), ("segment", 32)):
        data = {"crop_px": crop_px, "batch_size": 1}
        train(small(method, data=data, training={"sample_every_steps": 1}), tiles, tmp_path / method, steps=1)


@pytest.mark.parametrize(
    "setting", ["data.crop_px=48", "model.views.pixel_shuffle=0", "model.structure_enhancement=false"]
)
def test_patches_must_fit_only_where_they_are_shuffled(setting: str, write_recipe: Write) -> None:
    path = write_recipe("vsmt", model={"views": {"shuffle_px": {"48": 1}}})
    with pytest.raises(ConfigError, match="multiple of 48"):
        load_recipe(path)
    assert load_recipe(path, [setting])


def test_an_auxiliary_model_takes_over_data_and_manner_but_not_length(small: Callable[..., Recipe]) -> None:
    changes = {"data": {"loaders": 1}, "training": {"precision": "bfloat16", "epochs": 99}}
    auxiliary = small("vsmt", auxiliary={"he_classifier": {"data": {"batch_size": 4}}}, **changes).auxiliary
    classifier, autoencoder = auxiliary["he_classifier"], auxiliary["he_autoencoder"]
    assert isinstance(classifier, Recipe)
    assert isinstance(autoencoder, Recipe)
    assert (classifier.data.loaders, classifier.training.precision, classifier.training.epochs) == (1, "bfloat16", 20)
    assert (classifier.data.batch_size, autoencoder.data.batch_size) == (4, 1)
    assert (classifier.method, autoencoder.method) == ("classify", "reconstruct")


def test_a_checkpoint_takes_the_place_of_a_recipe(small: Callable[..., Recipe], tmp_path: Path) -> None:
    checkpoint = tmp_path / "he.safetensors"
    checkpoint.touch()
    recipe = small("vsmt", auxiliary={"he_classifier": {"checkpoint": str(checkpoint)}})
    assert recipe.auxiliary["he_classifier"] == Pretrained(checkpoint=checkpoint)


def test_only_what_changes_the_weights_is_a_recipes_identity(small: Callable[..., Recipe]) -> None:
    plain = identity(small("cut").table())
    how = {"save_every_steps": 9, "log_every_steps": 9, "sample_every_steps": 9}
    assert identity(small("cut", data={"loaders": 3}, training=how).table()) == plain
    assert identity(small("cut", seed=3).table()) != plain


def test_a_length_in_steps_keeps_the_share_of_the_decay(small: Callable[..., Recipe]) -> None:
    training = small("cut", training={"epochs": 60, "decay_epochs": 10}).training
    by_epochs = training.model_copy(update={"steps": None})
    assert (by_epochs.total_steps(100), by_epochs.decay_steps(7000)) == (7000, 1000)
    assert (training.total_steps(100), training.decay_steps(70)) == (6, 10)
