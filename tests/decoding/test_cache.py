"""Writing into the static cache, with and without XLA."""

import numpy as np
import pytest
from keras import ops

from tfhf.decoding.cache import write
from tfhf.decoding.compile import compiled


@pytest.mark.parametrize("in_place", [False, True])
def test_writes_one_slot(in_place):
    cache = np.arange(2 * 3 * 5 * 4, dtype="float32").reshape(2, 3, 5, 4)
    new = -np.ones((2, 3, 1, 4), "float32")
    put = compiled(lambda cache, new, index: write(cache, new, index, in_place), jit_compile=in_place)
    for index in (0, 3, 4):
        expected = cache.copy()
        expected[:, :, index:index + 1] = new
        got = put(*map(ops.convert_to_tensor, (cache, new)), ops.convert_to_tensor(index, "int32"))
        np.testing.assert_array_equal(got, expected)
