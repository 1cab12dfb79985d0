"""Shapes of SRGAN's generator, alone SRResNet, and of its discriminator (Ledig et al. 2017, figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.config import Config
from tfhf.models.pretrained import PretrainedConfig

SCALES = (2, 4, 8)


@dataclass(frozen=True)
class SRGANConfig(PretrainedConfig):
    """Hyperparameters of the generator; the defaults are the paper's, four times as high and wide.

    Attributes:
        upscale: how many times as high and wide the output is: 2, 4 or 8, by one pixel shuffle for each doubling.
        hidden_size: channels of the convolutions.
        num_residual_blocks: B of the paper.
        prelu_per_channel: one slope for each channel; otherwise one for each activation, the count most often told.
        bicubic_skip: add the bicubic enlargement, and begin as that: the network learns what it lacks (Kim et al. 2016,
            "Accurate Image Super-Resolution Using Very Deep Convolutional Networks"). The paper's has none; a small
            network learns in a fraction of the steps with it.

    Raises:
        ValueError: another scale.
    """

    model_type: ClassVar[str] = "srgan"
    own: ClassVar[tuple] = ()

    upscale: int = 4
    hidden_size: int = 64
    num_residual_blocks: int = 16
    prelu_per_channel: bool = False
    bicubic_skip: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.upscale not in SCALES:
            raise ValueError(f"upscale is {self.upscale}; expected one of {', '.join(map(str, SCALES))}.")

    @property
    def num_doublings(self) -> int:
        """How many pixel shuffles there are."""
        return self.upscale.bit_length() - 1

    def least_parameters(self):
        """See `PretrainedConfig`."""
        return 9 * self.hidden_size**2 * (2 * self.num_residual_blocks + 4 * self.num_doublings)

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels to each side an output pixel can depend on.

        4 of the first 9 x 9 convolution, 2 a block, 1 behind them; a 3 x 3 one sees 1 pixel of its own size before each
        shuffle, 1, 1/2, 1/4 ...; the last 9 x 9 one 4 / upscale. Rounded up, with one more: the pixel of the large
        image that a convolution looks at lies in the next small one.
        """
        before = sum(2.0**-number for number in range(self.num_doublings))
        return int(4 + 2 * self.num_residual_blocks + 1 + before + 4 / self.upscale + 1)


@dataclass(frozen=True)
class SRGANDiscriminatorConfig(Config):
    """Hyperparameters of the discriminator; the defaults are the paper's.

    Attributes:
        image_size: height and width of the images that it sees, a multiple of 16: the linear layer is made for it.
        hidden_size: channels of the first convolution; the last has eight times as many.
        dense_size: width of the linear layer before the logit.

    Raises:
        ValueError: an image_size that four halvings do not divide.
    """

    image_size: int = 96
    hidden_size: int = 64
    dense_size: int = 1024

    def __post_init__(self):
        if self.image_size < 16 or self.image_size % 16:
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of 16.")


SRGANConfig.sizes = {"srgan-x4": dict(), "srgan-x2": dict(upscale=2)}

# Parameters of the generators, one PReLU slope an activation, and of the paper's discriminator.
PARAMETER_COUNTS = {"srgan-x4": 1_549_462, "srgan-x2": 1_401_749, "discriminator-96": 23_565_505}
# The same generators with one PReLU slope a channel.
PER_CHANNEL_COUNTS = {"srgan-x4": 1_550_659, "srgan-x2": 1_402_883}
