"""A hash table that never changes, as plain constants of a TensorFlow graph: two gathers a look-up.

TensorFlow's own tables are resources, which an initialiser has to fill; an export without them loads anywhere.
"""

import numpy as np
import tensorflow as tf

# Odd multipliers (fractional parts of the golden ratio and of the square root of 2): the high bits of the product mix
# all bits of the key.
_MULTIPLIERS = (-7046029254386353131, 7640891576956012809)
_MAX_ROUNDS = 500


class HashTable:
    """Keys to values, with cuckoo hashing (Pagh and Rodler 2001): each key lies in one of two slots.

    Args:
        keys: int64 [n] >= 0, different.
        values: int32 [n] >= 0.

    Raises:
        ValueError: a key is negative or there twice, or the keys find no slots.
    """

    def __init__(self, keys, values):
        keys = np.asarray(keys, np.int64)
        if keys.size and (keys.min() < 0 or len(np.unique(keys)) != len(keys)):
            raise ValueError(f"{len(keys)} keys, of which {len(np.unique(keys))} differ and {(keys < 0).sum()} are "
                             "negative; expected different keys >= 0")
        # At most 0.45 of the slots are taken: from 0.5 on two slots a key are not enough.
        bits = max(2, int(np.ceil(np.log2(max(len(keys), 1) / 0.45))))
        self._shift, self._mask = 63 - bits, (1 << bits) - 1
        with np.errstate(over="ignore"):
            slots = np.stack([(keys * np.int64(m) >> self._shift) & self._mask for m in _MULTIPLIERS])
        owner, side, homeless = np.full(1 << bits, -1), np.zeros(len(keys), int), np.arange(len(keys))
        for _ in range(_MAX_ROUNDS):
            if not len(homeless):
                break
            wanted = slots[side[homeless], homeless]
            evicted = owner[wanted]
            owner[wanted] = homeless   # of several that want one slot, the last has it
            homeless = np.unique(np.concatenate([homeless, evicted[evicted >= 0]]))
            homeless = homeless[owner[slots[side[homeless], homeless]] != homeless]
            side[homeless] ^= 1
        else:
            raise ValueError(f"no place for {len(homeless)} of {len(keys)} keys after {_MAX_ROUNDS} rounds")
        self._keys = np.where(owner >= 0, keys[owner] if len(keys) else -1, np.int64(-1))
        owned = np.asarray(values, np.int32)[owner] if len(keys) else np.int32(-1)
        self._values = np.where(owner >= 0, owned, np.int32(-1))

    def lookup(self, keys):
        """int64 [...] >= 0 -> values int32 [...], -1 where there is no such key."""
        table, values = tf.constant(self._keys), tf.constant(self._values)
        first, second = (tf.bitwise.right_shift(keys * m, tf.constant(self._shift, tf.int64)) & self._mask
                         for m in _MULTIPLIERS)
        slot = tf.where(tf.gather(table, first) == keys, first, second)
        return tf.where(tf.gather(table, slot) == keys, tf.gather(values, slot), -1)


class StringTable:
    """Strings to values, as constants: a 62-bit fingerprint finds the only string that may be equal, and a comparison
    says whether it is.

    Args:
        entries: dict of bytes to int.

    Raises:
        ValueError: two strings with one fingerprint (once in 10⁹ tables of 50,000 strings).
    """

    def __init__(self, entries):
        self._texts = np.array([*entries, b""], object)   # the last is what nothing is looked up as; never empty
        self._values = np.array([*entries.values(), -1], np.int32)
        with tf.init_scope():
            keys = self._fingerprints(tf.constant(self._texts[:-1], tf.string)).numpy()
        self._table = HashTable(keys, np.arange(len(entries)))

    @staticmethod
    def _fingerprints(strings):
        return tf.strings.to_hash_bucket_fast(strings, 2**62)

    def lookup(self, strings):
        """string [...] -> int32 [...], -1 where the table has no such string."""
        place = self._table.lookup(self._fingerprints(strings))
        place = tf.where(place < 0, len(self._texts) - 1, place)
        same = tf.gather(tf.constant(self._texts, tf.string), place) == strings
        return tf.where(same, tf.gather(tf.constant(self._values), place), -1)
