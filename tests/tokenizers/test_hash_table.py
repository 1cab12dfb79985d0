"""The constant tables: every key is found, no other one is."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.tokenizers.hash_table import HashTable, StringTable


@pytest.mark.parametrize("count", [0, 1, 2, 7, 50_000])
@pytest.mark.parametrize("kind", ["random", "in a row"])
def test_keys_are_found_and_others_are_not(count, kind):
    rng = np.random.default_rng(count)
    keys = np.arange(count, dtype=np.int64) if kind == "in a row" else np.unique(rng.integers(0, 2**62, count))
    table = HashTable(keys, np.arange(len(keys)) * 3)
    assert tf.function(table.lookup)(tf.constant(keys)).numpy().tolist() == (np.arange(len(keys)) * 3).tolist()
    others = np.setdiff1d(rng.integers(0, 2**62, (1000,)), keys)
    assert (table.lookup(tf.constant(others[:, None])).numpy() == -1).all()


def test_strings():
    table = StringTable({b"a": 5, "é".encode(): 6, b"": 7})
    assert table.lookup(tf.constant([["a", "b"], ["é", ""]])).numpy().tolist() == [[5, -1], [6, 7]]
    assert StringTable({}).lookup(tf.constant(["", "a"])).numpy().tolist() == [-1, -1]


def test_refusals():
    with pytest.raises(ValueError, match="of which 1 differ"):
        HashTable([4, 4], [0, 1])
    with pytest.raises(ValueError, match="1 are negative"):
        HashTable([-4], [0])
