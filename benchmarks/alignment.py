"""Rearranging features by one matrix product, against the explicit outer product of C x H x W x regions.

python benchmarks/alignment.py [--crop-px 512] [--channels 512]
"""

import argparse
from collections.abc import Callable

import torch
from measure import cost
from torch import Tensor

from restain.alignment import rearrange

GRID = 8


def explicit(alignment: Tensor, features: Tensor) -> Tensor:
    """The same sum with every weighted region written out: B x C x N x N x pixels of a region."""
    batch, channels, height, width = features.shape
    tall, wide = height // GRID, width // GRID
    cells = features.view(batch, channels, GRID, tall, GRID, wide).permute(0, 1, 2, 4, 3, 5)
    regions = cells.reshape(batch, channels, 1, GRID**2, tall * wide)
    moved = (alignment[:, None, :, :, None] * regions).sum(dim=3)
    grid = moved.view(batch, channels, GRID, GRID, tall, wide).permute(0, 1, 2, 4, 3, 5)
    return grid.reshape(features.shape)


def prepare(name: str, channels: int, side: int) -> Callable[[], None]:
    """Inputs, and one forward and backward pass over them."""
    generator = torch.Generator().manual_seed(0)
    alignment = torch.rand(1, GRID**2, GRID**2, generator=generator).softmax(-1).requires_grad_()
    features = torch.randn(1, channels, side, side, generator=generator).requires_grad_()
    upstream = torch.randn(1, channels, side, side, generator=generator)
    function = {"product": rearrange, "explicit": explicit}[name]

    def run() -> None:
        alignment.grad = features.grad = None
        function(alignment, features).backward(upstream)

    return run


def main() -> None:
    """Print both costs and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crop-px", type=int, default=512)
    parser.add_argument("--channels", type=int, default=512)
    arguments = parser.parse_args()
    side = arguments.crop_px // 4
    product, naive = (cost(prepare, name, arguments.channels, side) for name in ("product", "explicit"))
    print(f"{'forward and backward':24}{'seconds':>10}{'extra MiB':>12}")
    for name, figure in (("matrix product", product), ("explicit outer product", naive)):
        print(f"{name:24}{figure.seconds:10.3f}{figure.extra_mib:12.0f}")
    speed, memory = naive.seconds / product.seconds, naive.extra_mib / product.extra_mib
    print(f"{'ratio':24}{speed:9.1f}x{memory:11.1f}x")


if __name__ == "__main__":
    main()
