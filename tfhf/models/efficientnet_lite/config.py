"""Shapes of EfficientNet-Lite0 to Lite4: those of EfficientNet (Tan and Le 2019, table 1) by their coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from tfhf.models.pretrained import PretrainedConfig


class Stage(NamedTuple):
    """Blocks of one width: the first one has the stride, and the widths of the stage before it to begin with."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    width: int
    depth: int


# Kernel, stride, expansion, width and depth of the smallest one's stages.
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
           (3, 1, 6, 320, 1))


@dataclass(frozen=True)
class EfficientNetLiteConfig(PretrainedConfig):
    """Hyperparameters of one EfficientNet-Lite; the defaults are those of Lite0.

    `image_size`: height and width it was made for. `image_mean`, `image_std`: what uint8 pixels over 255 are normalised
    by; the default is (x - 127) / 128 of x in 0..255. Without the squeeze-and-excitation and the swish of EfficientNet;
    stem, head, and the depth of the first and last stage are the same in all sizes. Stochastic depth is not ported.

    Raises:
        ValueError: fields that do not make sense.
    """

    model_type: ClassVar[str] = "efficientnet_lite"
    own: ClassVar[tuple] = ()

    num_channels: int = 3
    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    image_size: int = 224
    dropout_rate: float = 0.2
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.99
    num_labels: int = 1000
    labels: tuple[str, ...] = ()   # their names; in config.json id2label
    image_mean: tuple[float, ...] = (127 / 255,) * 3
    image_std: tuple[float, ...] = (128 / 255,) * 3

    def __post_init__(self):
        super().__post_init__()
        for name in ("width_coefficient", "depth_coefficient"):
            if not 0 < getattr(self, name) <= 100:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected more than 0, at most 100.")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate: got {self.dropout_rate}; expected 0 or more and less than 1.")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, scaled (Tan and Le 2019, section 3.3)."""
        stages, channels = [], 32
        for number, (kernel, stride, expansion, width, depth) in enumerate(_STAGES):
            width = self._rounded(width)
            if 0 < number < len(_STAGES) - 1:
                depth = math.ceil(depth * self.depth_coefficient)
            stages.append(Stage(kernel, stride, expansion, channels, width, depth))
            channels = width
        return tuple(stages)

    def least_parameters(self):
        """See `PretrainedConfig`."""
        blocks = sum(stage.depth * stage.expansion * stage.width ** 2 for stage in self.stages)
        return blocks // 2 + 1280 * self.num_labels

    def _rounded(self, width):
        """To a multiple of 8, and never by more than a tenth down."""
        wanted = width * self.width_coefficient
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded


SIZES = {
    "efficientnet_lite0": dict(),
    "efficientnet_lite1": dict(depth_coefficient=1.1, image_size=240),
    "efficientnet_lite2": dict(width_coefficient=1.1, depth_coefficient=1.2, image_size=260, dropout_rate=0.3),
    "efficientnet_lite3": dict(width_coefficient=1.2, depth_coefficient=1.4, image_size=280, dropout_rate=0.3),
    "efficientnet_lite4": dict(width_coefficient=1.4, depth_coefficient=1.8, image_size=300, dropout_rate=0.3),
}
EfficientNetLiteConfig.sizes = SIZES

# Of a classifier of 1,000 classes, statistics of batch normalisation left out.
PARAMETER_COUNTS = {
    "efficientnet_lite0": 4_652_008, "efficientnet_lite1": 5_416_680, "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096, "efficientnet_lite4": 13_006_568,
}
