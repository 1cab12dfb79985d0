"""From the logits of `Wav2Vec2ForCTC` to text, and to words with their times, in Python and inside an export."""

import dataclasses

import keras
import tensorflow as tf

from tfhf.config import Config
from tfhf.decoding import ctc
from tfhf.decoding.compile import compiled
from tfhf.decoding.ctc_alignment import word_times
from tfhf.decoding.ngram import NGramModel
from tfhf.decoding.words import WordTrie
from tfhf.losses.ctc import logit_lengths_of
from tfhf.tokenizers.characters import CharacterDecoder


@dataclasses.dataclass(frozen=True)
class CTCDecoderConfig(Config):
    """`num_beams` 1 without a language model and hot words is greedy; what else there is belongs to
    `prefix_beam_search`. `language_model`: an ARPA file, plain or gzip, over the vocabulary's letters."""

    num_beams: int = 1
    symbols_per_frame: int = 16
    language_model: str | None = None
    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0
    hot_words: tuple[str, ...] = ()
    hot_word_weight: float = 10.0

    @property
    def is_greedy(self):
        """Whether the likeliest symbol of each frame is all that is asked for."""
        return self.num_beams == 1 and self.language_model is None and not self.hot_words


class Wav2Vec2CTCDecoder:
    """Decodes logits by a `Wav2Vec2CTCTokenizer`'s vocabulary.

    Args:
        tokenizer: tells the blank and what each symbol writes.
        config: a `CTCDecoderConfig`.
        seconds_per_frame: 320 samples at 16 kHz in every published model.

    Raises:
        NGramError: the language model's file is broken, or its words are of another alphabet.
        WordError: a hot word that the vocabulary cannot spell.
    """

    def __init__(self, tokenizer, config=CTCDecoderConfig(), seconds_per_frame=0.02):
        self.tokenizer, self.config, self.seconds_per_frame = tokenizer, config, seconds_per_frame
        pieces = tokenizer.pieces(skip_special_tokens=True)
        # Piece by piece first: of Turkish's two letters i, the graph's own lower case knows one.
        self._characters = CharacterDecoder([tokenizer.lower(piece) for piece in pieces], tokenizer.do_lower_case)
        self._language_model = self._hot_words = None
        if config.language_model is not None:
            self._language_model = NGramModel.from_arpa(config.language_model, pieces)
            _as_variables(self._language_model, ("table", "log10", "backoff", "suffix", "following"))
            _as_variables(self._language_model.trie, ("children", "word", "credit"))
        if config.hot_words:
            self._hot_words = WordTrie.of_hot_words(config.hot_words, pieces)
        self._compiled = None

    def symbols(self, logits):
        """float logits [batch, frames, symbols] -> ids int32 [batch, frames], -1 behind the last; and the frames in
        which each begins and ends, int32 [batch, frames]."""
        o, blank = self.config, self.tokenizer.pad_token_id
        lengths = logit_lengths_of(logits, blank)
        if o.is_greedy:
            found = ctc.greedy(logits, lengths, blank)
            return found["ids"], found["starts"], found["ends"]
        found = ctc.prefix_beam_search(
            logits, lengths, beam_width=o.num_beams, blank_index=blank, symbols_per_frame=o.symbols_per_frame,
            language_model=self._language_model, alpha=o.alpha, beta=o.beta, unk_score_offset=o.unk_score_offset,
            hot_words=self._hot_words, hot_word_weight=o.hot_word_weight,
            word_delimiter=self.tokenizer.word_delimiter_token_id)
        return found["ids"][:, 0], found["starts"][:, 0], found["ends"][:, 0]

    def answer(self, logits):
        """Inside a graph: logits -> {"text": string [batch], "words": string [batch, words], "" behind the last,
        "word_starts" and "word_ends": float32 [batch, words], seconds, -1 behind the last}."""
        ids, starts, ends = self.symbols(logits)
        text = self._characters.decode(ids)
        words = tf.strings.split(text).to_tensor("")
        times = word_times(ids, starts, ends, self.tokenizer.word_delimiter_token_id, self.seconds_per_frame)
        count = tf.shape(words)[1]
        return {"text": text, "words": words, "word_starts": times["starts"][:, :count],
                "word_ends": times["ends"][:, :count]}

    def texts(self, model, inputs):
        """Texts of a batch of model inputs, a list of str."""
        if self._compiled is None or self._compiled[0] is not model:
            self._compiled = model, compiled(lambda batch: self.symbols(model(batch, training=False)), jit_compile=None)
        return [text.decode("utf-8") for text in self._characters.decode(self._compiled[1](inputs)[0]).numpy()]


def _as_variables(holder, names):
    """Large tables stand beside a graph: inside, 2 GB is the end."""
    for name in names:
        value = getattr(holder, name)
        setattr(holder, name, keras.Variable(value, dtype=str(value.dtype), trainable=False, name=name))
