"""Shape of VGG's convolutions (Simonyan and Zisserman 2014, table 1, configuration E)."""

from __future__ import annotations

from dataclasses import dataclass

from tfhf.config import Config


@dataclass(frozen=True)
class VGGConfig(Config):
    """The defaults are VGG19.

    Attributes:
        hidden_sizes: channels of each stage; a 2 x 2 maximum stands between two stages.
        num_convolutions: 3 x 3 convolutions of each stage.
    """

    hidden_sizes: tuple[int, ...] = (64, 128, 256, 512, 512)
    num_convolutions: tuple[int, ...] = (2, 2, 4, 4, 4)

    def __post_init__(self):
        if not self.hidden_sizes or len(self.hidden_sizes) != len(self.num_convolutions):
            raise ValueError(f"hidden_sizes={self.hidden_sizes} and num_convolutions={self.num_convolutions}; expected "
                             "one number each for every stage.")


# Parameters of the sixteen convolutions; the classifier behind them is not built.
PARAMETER_COUNTS = {"vgg19": 20_024_384}
