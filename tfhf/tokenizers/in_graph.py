"""Which in-graph tokenizer a tokenizer.json needs, and texts into what a model with a head for whole texts takes."""

import tensorflow as tf

from tfhf.tokenizers.batches import pad_batch, pair_batch
from tfhf.tokenizers.bert_wordpiece import BertWordPiece
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE
from tfhf.tokenizers.characters_in_graph import is_utf8
from tfhf.tokenizers.fingerprint import parse_json
from tfhf.tokenizers.folder import read_tokenizer_json

_KINDS = {"BPE": ByteLevelBPE, "WordPiece": BertWordPiece}
END_TOKEN = "<|endoftext|>"


def in_graph_tokenizer(path, **options):
    """The `ByteLevelBPE` or `BertWordPiece` of a tokenizer.json, local or gs://; `options` are the class's own.

    Raises:
        ValueError: it is of another kind, or no tokenizer.json.
    """
    content = read_tokenizer_json(path)
    try:
        kind = parse_json(content, "a file")["model"]["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no tokenizer.json: {type(error).__name__} {error}") from error
    if kind not in _KINDS:
        raise ValueError(f"{path}: a tokenizer of type {kind!r}; inside a graph there are {', '.join(sorted(_KINDS))}")
    return _KINDS[kind](content, name=str(path), **options)


def text_of(example):
    """The text of a decoded text_label record, string []. One that is not UTF-8 is a RecordError of the run, which
    names the record."""
    words = tf.strings.join(["RecordError: ", example["id"], ": the text is not UTF-8"])
    with tf.control_dependencies([tf.debugging.Assert(is_utf8(example["text"]), [words])]):
        return tf.identity(example["text"])


def classifier_inputs(tokenizer, strings, max_tokens):
    """Texts as BERT and GPT-2 read them to classify; longer ones are cut.

    BERT: [CLS] text [SEP] (Devlin et al. 2018, section 3). GPT-2: the text and its end token, whose state the class is
    read from (Radford et al. 2018, section 3.3: the extract token).

    Args:
        tokenizer: `BertWordPiece` or `ByteLevelBPE` (with "<|endoftext|>").
        strings: string [batch], UTF-8.
        max_tokens: int, of the rows, special tokens included.

    Returns:
        dict of int32 [batch, max_tokens]: input_ids, attention_mask (1 = token), for BERT token_type_ids too.
    """
    ids = tokenizer.encode(strings)
    if isinstance(tokenizer, BertWordPiece):
        return pair_batch(ids, None, max_tokens, cls_id=tokenizer.cls_token_id, sep_id=tokenizer.sep_token_id,
                          pad_id=tokenizer.pad_token_id)
    end = tokenizer.token_to_id(END_TOKEN)
    ends = tf.fill([ids.nrows(), 1], tf.constant(end, ids.dtype))
    return pad_batch(tf.concat([ids[:, :max_tokens - 1], ends], axis=1), max_tokens, end)
