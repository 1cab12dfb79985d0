"""UNet's config: what it refuses, and the published sizes."""

import pytest

from tfhf.models.unet.config import PARAMETER_COUNTS, SIZES, UNetConfig


def test_sizes_and_counts_have_the_same_names():
    assert set(SIZES) == set(PARAMETER_COUNTS)
    assert UNetConfig.of_size("unet") == UNetConfig() and UNetConfig().multiple == 16
    assert UNetConfig.of_size("unet-bn", num_labels=5).num_labels == 5


@pytest.mark.parametrize("changes, message", [
    ({"hidden_sizes": (64,)}, "expected two levels or more"),
    ({"hidden_sizes": (8, 0)}, "hidden_sizes: got 0; expected 1 <= value"),
    ({"upsampling": "cubic"}, "expected one of transposed, nearest, bilinear"),
    ({"padding": "zeros"}, "expected one of reflect, edge"),
    ({"min_depth": 0.0}, "expected 0 < min < max"),
    ({"max_depth": 1e-4}, "expected 0 < min < max"),
])
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**changes)
