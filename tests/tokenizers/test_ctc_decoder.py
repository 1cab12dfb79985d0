"""Texts, words and times from logits, in Python and in a graph."""

import numpy as np
import pytest
import tensorflow as tf

from tfhf.losses.ctc import PADDING_LOGIT
from tfhf.tokenizers.ctc_decoder import CTCDecoderConfig, Wav2Vec2CTCDecoder
from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer

ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0 <unk>
-99 <s> -0.3
-1.0 </s>
-1.0 hold -0.3
-1.0 the -0.3

\\2-grams:
-0.1 <s> hold
-0.1 hold the

\\end\\
"""


@pytest.fixture
def tokenizer():
    return Wav2Vec2CTCTokenizer.from_corpus(["hold the lime"], log=lambda line: None)


def logits_of(tokenizer, paths, sure=8.0):
    """Logits [batch, frames, symbols] in which each frame says its letter of the path; "_" is blank."""
    frames = max(map(len, paths)) + 3
    logits = np.full((len(paths), frames, tokenizer.vocab_size), PADDING_LOGIT, "float32")
    logits[:, :, 0] = 0.0
    for row, path in enumerate(paths):
        logits[row, :len(path)] = 0.0
        for frame, letter in enumerate(path):
            logits[row, frame, tokenizer.encoder["<pad>" if letter == "_" else letter]] = sure
    return logits


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_words_and_their_times(tokenizer, num_beams, jit_compile):
    decoder = Wav2Vec2CTCDecoder(tokenizer, CTCDecoderConfig(num_beams=num_beams), seconds_per_frame=0.5)
    logits = logits_of(tokenizer, ["__hho_l_d||tthe_", "lime", "___"])
    symbols = tf.function(decoder.symbols, jit_compile=jit_compile)(logits)
    assert decoder._characters.decode(symbols[0]).numpy().tolist() == [b"hold the", b"lime", b""]
    answer = {name: value.numpy() for name, value in tf.function(decoder.answer)(logits).items()}
    assert answer["text"].tolist() == [b"hold the", b"lime", b""]
    assert answer["words"].tolist() == [[b"hold", b"the"], [b"lime", b""], [b"", b""]]
    np.testing.assert_array_equal(answer["word_starts"], [[1.0, 5.5], [0.0, -1], [-1, -1]])
    np.testing.assert_array_equal(answer["word_ends"], [[4.5, 7.5], [2.0, -1], [-1, -1]])


def test_a_language_model_changes_a_near_miss(tokenizer, tmp_path):
    (tmp_path / "lm.arpa").write_text(ARPA)
    logits = logits_of(tokenizer, ["hold|thi_"])
    frame = logits[0, 7]
    frame[tokenizer.encoder["e"]] = frame[tokenizer.encoder["i"]] - 0.5
    for config, text in ((CTCDecoderConfig(), b"hold thi"),
                         (CTCDecoderConfig(num_beams=8, language_model=str(tmp_path / "lm.arpa")), b"hold the"),
                         (CTCDecoderConfig(num_beams=8, hot_words=("the",)), b"hold the")):
        answer = tf.function(Wav2Vec2CTCDecoder(tokenizer, config).answer)(logits)
        assert answer["text"].numpy().tolist() == [text]


def test_a_language_model_of_another_alphabet(tokenizer, tmp_path):
    (tmp_path / "lm.arpa").write_text(ARPA.replace("hold", "HOLD").replace("the", "THE"))
    with pytest.raises(ValueError, match="lm.arpa: 2 of 2 words, such as .*'HOLD'.*cannot be spelled"):
        Wav2Vec2CTCDecoder(tokenizer, CTCDecoderConfig(language_model=str(tmp_path / "lm.arpa")))
