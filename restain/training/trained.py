"""Take up the method of a run with everything that it has learned, to look into it; staining needs the product only."""

from pathlib import Path

from restain.errors import MissingError
from restain.methods import METHODS
from restain.methods.base import Method
from restain.training.folder import RECIPE, STATE
from restain.training.recipes import load_recipe
from restain.training.run import build
from restain.training.state import load_state


def load_method(run: Path | str) -> Method:
    """The method of a run, as of its last saved state, in evaluation mode on the CPU.

    Args:
        run: folder of a finished or unfinished run.

    Raises:
        MissingError: there is no run, or none that has saved a state.
        CheckpointError: the state is damaged.
    """
    run = Path(run)
    if not (run / STATE).is_file():
        raise MissingError(f"{run} holds no saved state ({STATE}); give the folder of a run, or train it further")
    recipe = load_recipe(run / RECIPE)
    # the state brings the auxiliary models' weights, too; here they need only their shapes
    needed = METHODS[recipe.method].auxiliary(recipe.model)
    blanks = {
        name: METHODS[model.method](METHODS[model.method].Config.model_validate(dict(model.model))).product()
        for name, model in needed.items()
    }
    method = build(recipe, blanks)
    load_state(run / STATE, method, {})
    return method.eval()
