"""The auxiliary networks whose features guide VSMT: an autoencoder and a grade classifier on one encoder shape."""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from restain.networks.blocks import Chain, ResidualBlock, Staged, convolution, initialise, normalisation


class AuxiliaryConfig(BaseModel):
    """Shape of an auxiliary network; the defaults are VSMT's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(64, ge=1, le=4096)
    """Channels of the first convolution; the residual blocks have four times as many."""
    blocks: int = Field(9, ge=1, le=100)


class Autoencoder(Staged):
    """Reconstruct an image from its features at a quarter of the size (VSMT, M_hr and M_ir; 11.38 M weights).

    N x 3 x H x W to N x 3 x H x W in [-1, 1]; H and W must be multiples of 4. Stages: `stem`, `down1`, `down2`,
    `block0` ... `block8`, `up1`, `up2`, `output`.
    """

    def __init__(self, config: AuxiliaryConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AuxiliaryConfig()
        width = config.width
        self.stages = nn.ModuleDict(
            _encoder(config, dropout=0.5)
            | {
                "up1": _up(4 * width),
                "up2": _up(2 * width),
                "output": Chain(nn.Identity(), convolution(width, 3, 7, padding=3, reflects=True), nn.Tanh()),
            }
        )
        initialise(self)


class Classifier(Staged):
    """Grade a tile: N x 3 x H x W in [-1, 1] to N x 4 logits for 0, 1+, 2+, 3+ (VSMT, M_hc and M_ic; 14.54 M weights).

    Stages: `stem`, `down1`, `down2`, `block0` ... `block8`, `shrink1`, `shrink2`, `logits`.
    """

    grades = 4

    def __init__(self, config: AuxiliaryConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AuxiliaryConfig()
        wide = 8 * config.width
        self.stages = nn.ModuleDict(
            _encoder(config, dropout=0.0)
            | {
                "shrink1": Chain(*_conv(4 * config.width, wide, stride=2, padding=1)),
                "shrink2": Chain(*_conv(wide, wide, stride=2, padding=1)),
                "logits": Chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, self.grades)),
            }
        )
        initialise(self)


def _encoder(config: AuxiliaryConfig, dropout: float) -> dict[str, nn.Module]:
    width = config.width
    stages: dict[str, nn.Module] = {
        "stem": Chain(nn.Identity(), *_conv(3, width, size=7, padding=3, reflects=True)),
        "down1": Chain(nn.Identity(), *_conv(width, 2 * width, stride=2, padding=1, reflects=True)),
        "down2": Chain(nn.Identity(), *_conv(2 * width, 4 * width, stride=2, padding=1, reflects=True)),
    }
    for index in range(config.blocks):
        stages[f"block{index}"] = ResidualBlock(4 * width, dropout=dropout, activated=True)
    return stages


def _conv(
    channels_in: int, channels_out: int, size: int = 3, stride: int = 1, padding: int = 0, reflects: bool = False
) -> list[nn.Module]:
    layer = convolution(channels_in, channels_out, size, stride=stride, padding=padding, reflects=reflects)
    return [layer, normalisation("instance", channels_out), nn.ReLU(inplace=True)]


def _up(channels: int) -> Chain:
    half = channels // 2
    transposed = nn.ConvTranspose2d(channels, half, 3, 2, padding=1, output_padding=1)
    return Chain(transposed, normalisation("instance", half), nn.ReLU(inplace=True))
