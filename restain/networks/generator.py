"""The ResNet generator that CUT and its descendants share, with named stages.

Source: Johnson et al. 2016 and Zhu et al. 2017 for the shape, Park et al. 2020 (CUT) for the blurred resampling, VSMT
and ASP for 6 blocks under spectral norm.
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from restain.networks.blocks import (
    BlurDown,
    BlurUp,
    NormName,
    ReflectionPad,
    ResidualBlock,
    Staged,
    convolution,
    initialise,
    normalisation,
)


class GeneratorConfig(BaseModel):
    """Shape of a generator; the defaults are those of VSMT (7.84 M weights)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(64, ge=1)
    """Channels of the first convolution; the residual blocks have four times as many."""
    blocks: int = Field(6, ge=1)
    """Residual blocks: 6 for ASP, PSPStain and VSMT, 9 for CUT, CycleGAN and PyramidP2P."""
    norm: NormName = "instance"
    antialias: bool = True
    """Blurred resampling; otherwise strided and transposed convolutions, as in CycleGAN and PyramidP2P."""
    spectral_norm: bool = True
    """Divide each convolution by its largest singular value."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class Generator(Staged):
    """H&E to virtual IHC, N x 3 x H x W to N x 3 x H x W in [-1, 1]; H and W must be multiples of 4.

    Stages: `input` (reflect-padded), `stem`, `down1` and `down2` (the bare convolutions, where PatchNCE reads),
    `shrink1`, `shrink2`, `block0` ..., `up1`, `up2`, `output`.
    """

    multiple = 4

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        width, norm, spectral = config.width, config.norm, config.spectral_norm

        def conv(channels_in: int, channels_out: int, size: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
            return convolution(
                channels_in, channels_out, size, stride=stride, padding=padding, norm=norm, spectral=spectral
            )

        def finish(channels: int) -> list[nn.Module]:
            return [normalisation(norm, channels), nn.ReLU()]

        def up(channels: int) -> nn.Sequential:
            half = channels // 2
            if config.antialias:
                return nn.Sequential(BlurUp(), conv(channels, half, 3, padding=1), *finish(half))
            bias = norm != "batch"
            transposed = nn.ConvTranspose2d(channels, half, 3, 2, padding=1, output_padding=1, bias=bias)
            return nn.Sequential(transposed, *finish(half))

        shrink: list[nn.Module] = [BlurDown()] if config.antialias else []
        stride = 1 if config.antialias else 2
        stages: dict[str, nn.Module] = {
            "input": ReflectionPad(3),
            "stem": nn.Sequential(conv(3, width, 7), *finish(width)),
            "down1": conv(width, 2 * width, 3, stride, padding=1),
            "shrink1": nn.Sequential(*finish(2 * width), *shrink),
            "down2": conv(2 * width, 4 * width, 3, stride, padding=1),
            "shrink2": nn.Sequential(*finish(4 * width), *shrink),
        }
        for index in range(config.blocks):
            stages[f"block{index}"] = ResidualBlock(4 * width, norm=norm, spectral=spectral, dropout=config.dropout)
        output = convolution(width, 3, 7, spectral=spectral)
        stages |= {
            "up1": up(4 * width),
            "up2": up(2 * width),
            "output": nn.Sequential(ReflectionPad(3), output, nn.Tanh()),
        }
        self.stages = nn.ModuleDict(stages)
        initialise(self)

    @property
    def halo_px(self) -> int:
        """How far an input pixel reaches in the output, not counting instance norm, which reaches everywhere.

        The reach of each stage times its pixel size: 3 for the 7x7, 1 + 1 for conv and blur at each scale on the way
        down, 8 per residual block at a quarter of the size, the way up, 3 for the last 7x7; rounded up to the
        generator's multiple.
        """
        down = 3 + (1 + 1) + 2 * (1 + 1)
        blocks = 4 * 2 * self.config.blocks
        up = 4 * 1 + 2 * 1 + 2 * 1 + 1 + 3
        return -(-(down + blocks + up) // self.multiple) * self.multiple
