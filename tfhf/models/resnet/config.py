"""Shapes of ResNet (He et al. 2015, table 1) under Hugging Face's field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfhf.models.pretrained import PretrainedConfig

LAYER_TYPES = ("basic", "bottleneck")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ResNetConfig(PretrainedConfig):
    """Hyperparameters of one ResNet; the defaults are those of ResNet-50.

    `downsample_in_bottleneck`: whether a bottleneck's stride is in its first convolution, as in the paper, or in its
    3 x 3 one, as in torchvision, timm and Hugging Face (version 1.5). Ours: `small_stem`, a 3 x 3 convolution in the
    place of the 7 x 7 one with its stride and pooling (section 4.2, for images of 32 x 32); `image_mean`, `image_std`,
    what uint8 pixels over 255 are normalised by.

    Raises:
        ValueError: fields that do not fit each other.
    """

    model_type: ClassVar[str] = "resnet"
    fixed: ClassVar[dict] = dict(hidden_act="relu")
    own: ClassVar[tuple] = ()   # ours stand in config.json too, where transformers and timm pass over them

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    num_labels: int = 1000
    labels: tuple[str, ...] = ()   # their names; in config.json id2label
    small_stem: bool = False
    image_mean: tuple[float, ...] = IMAGENET_MEAN
    image_std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        super().__post_init__()
        if self.layer_type not in LAYER_TYPES:
            raise ValueError(f"layer_type: got {self.layer_type!r}; expected one of {', '.join(LAYER_TYPES)}.")
        if len(self.depths) != len(self.hidden_sizes) or not self.depths:
            raise ValueError(f"depths: got {self.depths}; expected one for each of hidden_sizes={self.hidden_sizes}.")
        if self.layer_type == "bottleneck" and any(size % 4 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes: got {self.hidden_sizes}; expected multiples of 4 for bottlenecks.")

    @property
    def reduction(self) -> int:
        """How many times as narrow as a stage the 3 x 3 convolutions of a bottleneck are."""
        return 4 if self.layer_type == "bottleneck" else 1

    def least_parameters(self):
        """See `PretrainedConfig`."""
        blocks = sum(9 * depth * (size // self.reduction) ** 2 for size, depth in zip(self.hidden_sizes, self.depths))
        return self.num_channels * self.embedding_size + blocks + self.num_labels * self.hidden_sizes[-1]


_BASIC = dict(layer_type="basic", hidden_sizes=(64, 128, 256, 512))
SIZES = {
    "resnet18": dict(_BASIC, depths=(2, 2, 2, 2)),
    "resnet34": dict(_BASIC, depths=(3, 4, 6, 3)),
    "resnet50": dict(),
    "resnet101": dict(depths=(3, 4, 23, 3)),
    "resnet152": dict(depths=(3, 8, 36, 3)),
    # Not published: for digits of 28 x 28 pixels, and for tests.
    "resnet8": dict(layer_type="basic", embedding_size=16, hidden_sizes=(16, 32, 64), depths=(1, 1, 1),
                    downsample_in_first_stage=True, small_stem=True),
}
ResNetConfig.sizes = SIZES

# Of a classifier of 1,000 classes, statistics of batch normalisation left out; torchvision's numbers.
PARAMETER_COUNTS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
