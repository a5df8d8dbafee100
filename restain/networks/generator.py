"""The ResNet generator that CUT and its descendants share, with named stages.

Source: Johnson et al. 2016 and Zhu et al. 2017 for the shape, Park et al. 2020 (CUT) for the blurred resampling, VSMT
and ASP for 6 blocks under spectral norm.
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from restain.networks.blocks import (
    BlurDown,
    BlurUp,
    Chain,
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

    width: int = Field(64, ge=1, le=4096)
    """Channels of the first convolution; they double with each halving."""
    blocks: int = Field(6, ge=1, le=100)
    """Residual blocks: 6 for ASP, PSPStain and VSMT, 9 for CUT, CycleGAN, PyramidP2P and TDKStain."""
    downsamplings: int = Field(2, ge=1, le=16)
    """Halvings before the residual blocks: 3 for TDKStain, 2 for all others."""
    norm: NormName = "instance"
    antialias: bool = True
    """Blurred resampling; otherwise strided and transposed convolutions, as in CycleGAN and PyramidP2P."""
    spectral_norm: bool = True
    """Divide each convolution by its largest singular value."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class Generator(Staged):
    """H&E to virtual IHC, N x 3 x H x W to N x 3 x H x W in [-1, 1]; H and W must be multiples of `multiple`.

    Stages: `input` (reflect-padded), `stem`, `down1` and `down2` (the bare convolutions, where PatchNCE reads),
    `shrink1`, `shrink2`, `block0` ..., `up1`, `up2`, `output`. With other than two downsamplings, as many of each.
    """

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        width, norm, spectral = config.width, config.norm, config.spectral_norm

        def conv(channels_in: int, channels_out: int, size: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
            return convolution(
                channels_in, channels_out, size, stride=stride, padding=padding, norm=norm, spectral=spectral
            )

        def finish(channels: int) -> list[nn.Module]:
            in_place = norm != "none"  # without a norm it would change what the convolution gave, which is a tap
            return [normalisation(norm, channels), nn.ReLU(in_place)]

        def up(channels: int) -> Chain:
            half = channels // 2
            if config.antialias:
                return Chain(BlurUp(), conv(channels, half, 3, padding=1), *finish(half))
            bias = norm != "batch"
            transposed = nn.ConvTranspose2d(channels, half, 3, 2, padding=1, output_padding=1, bias=bias)
            return Chain(transposed, *finish(half))

        shrink: list[nn.Module] = [BlurDown()] if config.antialias else []
        stride = 1 if config.antialias else 2
        stages: dict[str, nn.Module] = {
            "input": ReflectionPad(3),
            "stem": Chain(conv(3, width, 7), *finish(width)),
        }
        channels = width
        for index in range(1, config.downsamplings + 1):
            stages[f"down{index}"] = conv(channels, 2 * channels, 3, stride, padding=1)
            stages[f"shrink{index}"] = Chain(*finish(2 * channels), *shrink)
            channels *= 2
        for index in range(config.blocks):
            stages[f"block{index}"] = ResidualBlock(channels, norm=norm, spectral=spectral, dropout=config.dropout)
        for index in range(1, config.downsamplings + 1):
            stages[f"up{index}"] = up(channels)
            channels //= 2
        stages["output"] = Chain(
            nn.Identity(), convolution(width, 3, 7, padding=3, reflects=True, spectral=spectral), nn.Tanh()
        )
        self.stages = nn.ModuleDict(stages)
        initialise(self)

    @property
    def multiple(self) -> int:
        """Sides must be multiples of this, px."""
        return 1 << self.config.downsamplings

    @property
    def smallest_px(self) -> int:
        """The shortest side: two pixels are left at the coarsest scale, the least that can be reflected."""
        return 2 * self.multiple

    @property
    def halo_px(self) -> int:
        """How far an input pixel reaches in the output, not counting instance norm, which reaches everywhere.

        The reach of each stage times its pixel size: 3 for the 7x7, 1 + 1 for conv and blur at each scale on the way
        down, 2 per residual block at the coarsest, 1 for the blur before and 1 for the conv after each doubling, 3 for
        the last 7x7; rounded up to the generator's multiple.
        """
        scales = [1 << index for index in range(self.config.downsamplings)]
        down = 3 + sum((1 + 1) * scale for scale in scales)
        blocks = self.multiple * 2 * self.config.blocks
        up = sum(1 * 2 * scale + 1 * scale for scale in scales) + 3
        return -(-(down + blocks + up) // self.multiple) * self.multiple
