"""Characters as symbols: writing them out inside a TensorFlow graph."""

import numpy as np
import tensorflow as tf


class CharacterDecoder:
    """Symbols to text with core TensorFlow operations only, for exports; no lookup table, nothing to initialise.

    Args:
        pieces: list of str, what each id writes (`Wav2Vec2CTCTokenizer.pieces()`).
        lower: whether the text is written in lower case.
    """

    def __init__(self, pieces, lower=False):
        # The last piece is that of padding: -1 would otherwise be no index.
        self._pieces = np.array([piece.encode("utf-8") for piece in [*pieces, ""]], object)
        self._lower = lower

    def decode(self, ids):
        """ids int [batch, time], below 0 where nothing is written -> string [batch], no white space at the ends.

        Raises (when the graph runs) InvalidArgumentError: an id beyond the pieces.
        """
        last = len(self._pieces) - 1
        check = tf.debugging.assert_less(ids, tf.cast(last, ids.dtype), f"an id beyond the {last} symbols")
        with tf.control_dependencies([check] if check is not None else []):   # None: checked at once, outside a graph
            written = tf.where(ids < 0, tf.cast(last, ids.dtype), ids)
        text = tf.strings.strip(tf.strings.reduce_join(tf.gather(tf.constant(self._pieces, tf.string), written), -1))
        return tf.strings.lower(text, "utf-8") if self._lower else text
