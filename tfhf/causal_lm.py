"""What the tasks that train a causal language model on token records share: rows, perplexity, continuations, export."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from keras import ops

from tfhf.config import Config
from tfhf.data.schema import TOKENS
from tfhf.data.shapes import fixed_length
from tfhf.data.text import check_tokenizer, read_text
from tfhf.decoding.compile import compiled
from tfhf.losses.vocabulary import IGNORED, MeanTokenLoss, labels_of
from tfhf.metrics.perplexity import Perplexity
from tfhf.task import Task, TaskError
from tfhf.tokenizers.batches import pad_batch
from tfhf.tokenizers.in_graph import in_graph_tokenizer


@dataclasses.dataclass(frozen=True)
class CausalLMConfig(Config):
    """What a causal language model is trained on and how it answers.

    Attributes:
        tokenizer: path of the tokenizer.json that the records were made with; it lies beside them. None: ids alone,
            then nothing is checked and no text goes in or out.
        row_length: tokens that rows are filled up to; a longer record is an error.
        max_prompt_tokens, max_new_tokens, repetition_penalty, top_k, top_p: of continuations; see
            `GPT2GenerationMixin`. Predictions and `serving_default` are greedy.
    """

    tokenizer: str | None = None
    row_length: int = 1024
    max_prompt_tokens: int = 128
    max_new_tokens: int = 64
    repetition_penalty: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class CausalLMTask(Task):
    """Token rows in; of records -log p comes out, of a prompt in a file its continuation.

    A subclass defines `name`, `Config` (with the fields of `CausalLMConfig`), `language_model` and `tiny`.
    """

    Config, record_type, reference_field = CausalLMConfig, TOKENS, "id"

    def __init__(self, config):
        super().__init__(config)
        self.buckets = (config.row_length,)
        # The end token in a prompt is text: it comes from outside.
        self.tokenizer = None if config.tokenizer is None else in_graph_tokenizer(config.tokenizer,
                                                                                  encode_special_tokens=True)
        self._losses = None

    def language_model(self):
        """The model, such as a `GPT2LMHeadModel`."""
        raise NotImplementedError(f"task {self.name}: language_model() is not defined")

    def check_records(self, manifest, folder):
        """FingerprintError where the records were made with another tokenizer."""
        if self.tokenizer is not None:
            check_tokenizer(manifest, self.tokenizer.fingerprint, folder)

    def preprocess(self, example, bucket, training):
        """See `Task`: inputs input_ids, segment_ids and labels, int32 [row_length]; the targets are the labels."""
        ids, segments = (fixed_length(tf.cast(example[name], tf.int32), bucket, 0)
                         for name in ("input_ids", "segment_ids"))
        labels = tf.ensure_shape(labels_of(ids[None], segments[None])[0], [bucket])
        inputs = {"input_ids": ids, "segment_ids": segments, "labels": labels}
        return inputs, labels, tf.reduce_sum(tf.cast(labels != IGNORED, tf.float32))

    def build_model(self):
        """See `Task`; TaskError for a tokenizer or rows that the model is too small for."""
        model = self.language_model()
        size, positions = model.config.vocab_size, model.config.n_positions
        if self.tokenizer is not None and self.tokenizer.vocab_size > size:
            raise TaskError(f"task.tokenizer: {self.tokenizer.vocab_size} tokens, but the model has vocab_size={size}")
        longest = max(self.config.row_length, self.config.max_prompt_tokens + self.config.max_new_tokens)
        if longest > positions:
            raise TaskError(f"task.row_length={self.config.row_length}, task.max_prompt_tokens="
                            f"{self.config.max_prompt_tokens} and task.max_new_tokens={self.config.max_new_tokens}: "
                            f"expected rows, and prompts with what follows, of at most n_positions={positions}")
        return model

    def loss(self):
        """The mean over a row's tokens."""
        return MeanTokenLoss()

    def metrics(self):
        """Perplexity."""
        return [Perplexity()]

    def decode(self, model, inputs):
        """Of rows: {"nll", "tokens"} of each; of prompts (`load_inputs`): the continuation, str."""
        if "labels" not in inputs:
            return self._continued(model, inputs)
        if self._losses is None or self._losses[0] is not model:
            self._losses = model, compiled(lambda batch: model(batch, training=False), jit_compile=None)
        losses, counted = np.asarray(self._losses[1](inputs), "float64"), np.asarray(inputs["labels"]) != IGNORED
        return [{"nll": float(row.sum()), "tokens": int(own.sum())} for row, own in zip(losses, counted)]

    def load_inputs(self, path):
        """A text file, the prompt -> its ids on the right of a row.

        Raises:
            TaskError: it is empty or longer than task.max_prompt_tokens.
            RecordError: it is not UTF-8.
        """
        tokenizer, most = self._needed_tokenizer(), self.config.max_prompt_tokens
        ids = tokenizer.encode([read_text(path)])
        count = int(ids.row_lengths()[0])
        if not 1 <= count <= most:
            raise TaskError(f"{path}: a prompt of {count} tokens, expected 1 to {most}, task.max_prompt_tokens")
        return {name: value[0].numpy() for name, value in pad_batch(ids, most, 0, "left").items()}

    def signatures(self, model):
        """`serving_default`: prompt string [batch] -> text string [batch], greedy. `sample`: with temperature float32
        [] and seed int32 []. `raw`: input_ids and segment_ids int32 [batch, row_length] -> logits."""
        tokenizer, o, rows = self._needed_tokenizer(), self.config, [None, self.config.row_length]

        def continued(prompt, options, temperature=0.0, seed=0):
            ids = tokenizer.encode(prompt)
            counts = tf.cast(ids.row_lengths(), tf.int32)
            wrong = tf.where((counts < 1) | (counts > o.max_prompt_tokens))[:, 0]
            first = tf.cast(tf.concat([wrong, [0]], axis=0)[0], tf.int32)
            words = tf.strings.join(["prompt ", tf.as_string(first), " of the batch: ", tf.as_string(tf.reduce_sum(
                tf.where(tf.range(tf.size(counts)) == first, counts, 0))),
                f" tokens, expected 1 to {o.max_prompt_tokens}"])
            with tf.control_dependencies([tf.debugging.Assert(tf.size(wrong) == 0, [words])]):
                row = pad_batch(ids, o.max_prompt_tokens, 0, "left")["input_ids"]
            answer = model.decode_tokens(row, counts, temperature, seed, options=options,
                                         repetition_penalty=o.repetition_penalty)
            return {"text": tokenizer.decode(answer["sequences"])}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="prompt")])
        def serving_default(prompt):
            return continued(prompt, model.generation_options(o.max_new_tokens))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="prompt"),
                                      tf.TensorSpec([], tf.float32, name="temperature"),
                                      tf.TensorSpec([], tf.int32, name="seed")])
        def sample(prompt, temperature, seed):
            options = model.generation_options(o.max_new_tokens, top_k=o.top_k, top_p=o.top_p, sample=True)
            return continued(prompt, options, temperature, seed)

        @tf.function(input_signature=[tf.TensorSpec(rows, tf.int32, name=name)
                                      for name in ("input_ids", "segment_ids")])
        def raw(input_ids, segment_ids):
            return {"logits": model({"input_ids": input_ids, "segment_ids": segment_ids}, training=False)}

        return {"serving_default": serving_default, "sample": sample, "raw": raw}

    def example_requests(self):
        """Two prompts of different lengths."""
        return {"serving_default": {"prompt": ["And he said", "The"]}}

    def _needed_tokenizer(self):
        if self.tokenizer is None:
            raise TaskError(f"task {self.name}: task.tokenizer is none, expected the tokenizer.json that lies beside "
                            "the records: no text goes in or out without one")
        return self.tokenizer

    def _continued(self, model, inputs):
        o = self.config
        answer = model.generate_with_scores(
            ops.convert_to_numpy(inputs["input_ids"]), ops.convert_to_numpy(inputs["attention_mask"]), o.max_new_tokens,
            repetition_penalty=o.repetition_penalty)
        texts = self._needed_tokenizer().decode(tf.constant(answer["sequences"]))
        return [text.decode("utf-8") for text in texts.numpy()]
