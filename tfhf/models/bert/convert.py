"""A small BERT with its tokenizer, for tests and for trying a pipeline."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tfhf.models.bert.config import BertConfig
from tfhf.models.bert.model import BertModel

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_TEXTS = ("the food was good and the staff were kind", "a bad phone, do not buy it!", "an awful film; we left early.",
          "great sound, works well", "abcdefghijklmnopqrstuvwxyz 0123456789 ?")


def tiny_config(**changes):
    """A BERT for tests: 2 layers of width 32, no dropout."""
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=120,
                 max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                 initializer_range=0.2)
    return BertConfig(**{**shape, **changes})


def write_tokenizer(path, pieces):
    """Writes a tokenizer.json of BERT's kind; `pieces`: {piece: id}, with the special tokens."""
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(path))


def write_tiny_checkpoint(folder, **changes):
    """Writes a random `BertModel` of `tiny_config(**changes)` and a tokenizer.json, the same at every call; returns the
    folder as str. It has learnt nothing."""
    config = tiny_config(**changes)
    # Not trained: the library's trainer numbers pieces of equal count in another order each time.
    text = " ".join(_TEXTS)
    letters = sorted(set(text) - {" "})
    pieces = dict.fromkeys([*SPECIAL_TOKENS, *letters, *("##" + letter for letter in letters), *text.split()])
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_tokenizer(Path(folder) / "tokenizer.json",
                    {piece: number for number, piece in enumerate(list(pieces)[:config.vocab_size])})
    model, draw = BertModel(config), np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) == 2:   # tables and kernels; biases are zero and norms one
            variable.assign(draw.normal(0, config.initializer_range, variable.shape))
    model.save_pretrained(folder)
    return str(folder)
