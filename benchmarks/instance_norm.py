"""Compare ways to compute instance norm: time of forward and backward pass, in both memory orders, on one thread.

    python benchmarks/instance_norm.py

Times are relative to `F.instance_norm` with its gradient made contiguous, the least that makes PyTorch's own right.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from restain.networks.normalisation import instance_norm

SHAPES = ((1, 64, 256, 256), (1, 256, 64, 64), (2, 128, 64, 64), (4, 32, 128, 128))


def plain(x: Tensor) -> Tensor:
    """PyTorch's, with the gradient made contiguous."""
    y = F.instance_norm(x)
    y.register_hook(lambda gradient: gradient.contiguous())
    return y


def grouped(x: Tensor) -> Tensor:
    """PyTorch's group norm; right in gradient, but imprecise in channels-last order."""
    return F.group_norm(x, x.shape[1])


def explicit(x: Tensor) -> Tensor:
    """The definition."""
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) * (variance + 1e-5).rsqrt()


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.instance_norm": plain,
    "group norm": grouped,
    "definition": explicit,
    "restain": instance_norm,
}


def seconds(way: Callable[[Tensor], Tensor], x: Tensor, above: Tensor) -> float:
    """One forward and backward pass."""
    start = time.perf_counter()
    torch.autograd.grad(way(x), x, above)
    return time.perf_counter() - start


def main() -> None:
    """Print one line per shape, type and order."""
    torch.set_num_threads(1)
    print(f"{'shape':20s} {'type':9s} {'order':14s}" + "".join(f"{name:>17s}" for name in WAYS))
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for order in (torch.contiguous_format, torch.channels_last):
                x, above = (torch.randn(shape, dtype=dtype).contiguous(memory_format=order) for _ in range(2))
                x.requires_grad_()
                best = dict.fromkeys(WAYS, float("inf"))
                for _ in range(15):
                    for name, way in WAYS.items():
                        best[name] = min(best[name], seconds(way, x, above))
                kinds = f"{shape!s:20s} {str(dtype)[6:]:9s} {str(order)[6:].removesuffix('_format'):14s}"
                print(kinds + "".join(f"{took / best['F.instance_norm']:17.2f}" for took in best.values()))


if __name__ == "__main__":
    main()
