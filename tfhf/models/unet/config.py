"""Shapes of UNet (Ronneberger et al. 2015, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.models.pretrained import PretrainedConfig

UPSAMPLINGS = ("transposed", "nearest", "bilinear")
PADDINGS = ("reflect", "edge")


@dataclass(frozen=True)
class UNetConfig(PretrainedConfig):
    """Hyperparameters of one UNet; the defaults are the paper's network on RGB with one output channel.

    The paper's convolutions lose a border of 92 pixels; here they keep the size, as everywhere since.

    Attributes:
        num_channels: of the image.
        num_labels: output channels of the segmentation head; the depth head has one.
        hidden_sizes: channels of each level, from full resolution down; each level halves height and width.
        use_bias: of the 3x3 convolutions; the up-convolutions and the head have one always.
        use_batch_norm: after every 3x3 convolution (Ioffe and Szegedy 2015); the paper has none. In training the
            statistics are those of the batch over all replicas (tfhf/layers/conv_norm.py), so that any number of them
            trains alike.
        upsampling: the paper's up-convolution as a "transposed" 2x2 convolution, or as "nearest" or "bilinear"
            upsampling with a 2x2 convolution behind it; the parameters are as many.
        padding: what sizes that 2 ** (levels - 1) does not divide are filled up with, and cropped of afterwards:
            the picture mirrored ("reflect") or its border repeated ("edge").
        min_depth, max_depth: in metres, the range of the depth head.

    Raises:
        ValueError: fields that cannot be.
    """

    model_type: ClassVar[str] = "unet"
    own: ClassVar[tuple] = ()

    num_channels: int = 3
    num_labels: int = 1
    labels: tuple[str, ...] = ()
    hidden_sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    use_bias: bool = True
    use_batch_norm: bool = False
    upsampling: str = "transposed"
    padding: str = "reflect"
    min_depth: float = 1e-3
    max_depth: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        if len(self.hidden_sizes) < 2 or min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes: got {self.hidden_sizes}; expected two levels or more, of 1 channel or "
                             "more.")
        for name, known in (("upsampling", UPSAMPLINGS), ("padding", PADDINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; expected one of {', '.join(known)}.")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"min_depth, max_depth: got {self.min_depth}, {self.max_depth}; expected 0 < min < max.")

    @property
    def multiple(self) -> int:
        """What heights and widths must be multiples of to need no filling up."""
        return 2 ** (len(self.hidden_sizes) - 1)

    def least_parameters(self):
        """See `PretrainedConfig`."""
        return sum(9 * size * size for size in self.hidden_sizes) + self.hidden_sizes[0] * self.num_labels


SIZES = {
    "unet": dict(),
    "unet-bn": dict(use_bias=False, use_batch_norm=True),
    "unet-bn-bias": dict(use_batch_norm=True),
}
UNetConfig.sizes = SIZES

# Parameters of 3 channels in, 1 out; moving statistics are none.
PARAMETER_COUNTS = {"unet": 31_031_745, "unet-bn": 31_037_633, "unet-bn-bias": 31_043_521}
