"""One check that formulas share: tensors that must match are never broadcast in silence."""

from torch import Tensor

from restain.errors import ShapeError


def same_shape(**tensors: Tensor) -> None:
    """Check that all tensors, given by name, have one shape.

    Raises:
        ShapeError: they differ; the message names each with its shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in shapes.items())
        raise ShapeError(f"expected tensors of one shape, but got {found}; crop or resize them to match")
