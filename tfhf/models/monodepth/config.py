"""Shapes of the networks of Godard et al. 2017 (arXiv 1609.03677, section 3.3 and its supplement)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.models.pretrained import PretrainedConfig

ENCODERS = ("vgg", "resnet")
NUM_SCALES = 4


@dataclass(frozen=True)
class MonodepthConfig(PretrainedConfig):
    """Hyperparameters of one network; the defaults are those of the paper's VGG-like one.

    `encoder_hidden_sizes`: of "vgg" the width of each of its levels, a level being two convolutions with the kernel of
    `encoder_kernel_sizes`, the second of stride 2; of "resnet" the width of its first convolution, then of each stage
    of `encoder_depths` bottleneck blocks (its outputs have four times that). `decoder_hidden_sizes`: width of each
    level from the finest on, one for every halving of the encoder. `max_disparity`: the largest disparity, as a part
    of the width of the image: 0.3 in the paper.

    Raises:
        ValueError: fields that do not fit each other.
    """

    model_type: ClassVar[str] = "monodepth"
    own: ClassVar[tuple] = ()

    encoder: str = "vgg"
    encoder_hidden_sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 512, 512)
    encoder_kernel_sizes: tuple[int, ...] = (7, 5, 3, 3, 3, 3, 3)
    encoder_depths: tuple[int, ...] = ()
    decoder_hidden_sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 512)
    max_disparity: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder: got {self.encoder!r}; expected one of {', '.join(ENCODERS)}.")
        resnet = self.encoder == "resnet"
        blocks, name = ((self.encoder_depths, "encoder_depths") if resnet else
                        (self.encoder_kernel_sizes, "encoder_kernel_sizes"))
        if len(blocks) != len(self.encoder_hidden_sizes) - resnet:
            raise ValueError(f"{name}: got {len(blocks)} of them; expected {len(self.encoder_hidden_sizes) - resnet}, "
                             f"one for each of encoder_hidden_sizes{' but the first' * resnet}.")
        halvings = len(self.encoder_hidden_sizes) + resnet
        if len(self.decoder_hidden_sizes) != halvings or halvings < NUM_SCALES:
            raise ValueError(f"decoder_hidden_sizes: got {len(self.decoder_hidden_sizes)} of them for an encoder that "
                             f"halves {halvings} times; expected as many, {NUM_SCALES} or more.")
        if not 0 < self.max_disparity <= 1:
            raise ValueError(f"max_disparity: got {self.max_disparity}; expected a part of the width, 0 < value <= 1.")

    @property
    def stride(self) -> int:
        """What the height and width of an image must be multiples of."""
        return 2 ** len(self.decoder_hidden_sizes)

    def least_parameters(self):
        """See `PretrainedConfig`."""
        decoder = sum(9 * width * width for width in self.decoder_hidden_sizes)
        if self.encoder == "resnet":
            blocks = zip(self.encoder_hidden_sizes[1:], self.encoder_depths, strict=True)
            return decoder + sum(9 * depth * width * width for width, depth in blocks)
        kernels = zip(self.encoder_hidden_sizes, self.encoder_kernel_sizes, strict=True)
        return decoder + sum(size * size * width * width for width, size in kernels)


SIZES = {
    "vgg": dict(),
    "resnet50": dict(encoder="resnet", encoder_hidden_sizes=(64, 64, 128, 256, 512), encoder_kernel_sizes=(),
                     encoder_depths=(3, 4, 6, 3), decoder_hidden_sizes=(16, 32, 64, 128, 256, 512)),
}
MonodepthConfig.sizes = SIZES

# The ResNet50 is that of the published code, which projects every block's input: 58.5 M; the paper says 48 M.
PARAMETER_COUNTS = {"vgg": 31_600_072, "resnet50": 58_452_008}


def tiny_config(**changes) -> MonodepthConfig:
    """A network for tests: four levels, 8 to 16 wide, images in multiples of 16."""
    shape = dict(encoder_hidden_sizes=(8, 8, 16, 16), encoder_kernel_sizes=(5, 3, 3, 3),
                 decoder_hidden_sizes=(8, 8, 16, 16))
    return MonodepthConfig(**{**shape, **changes})


def small_config(**changes) -> MonodepthConfig:
    """A network that two CPU cores train in minutes, 1,269,912 parameters: five levels, images in multiples of 32."""
    shape = dict(encoder_hidden_sizes=(16, 32, 64, 128, 128), encoder_kernel_sizes=(7, 5, 3, 3, 3),
                 decoder_hidden_sizes=(16, 16, 32, 64, 128), max_disparity=0.12)
    return MonodepthConfig(**{**shape, **changes})
