"""A tiny language model with an adapter as a task, over a GPT-2 that is the same each time."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfhf.config import Config
from tfhf.data.schema import TOKENS
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.model import GPT2LMHeadModel
from tfhf.peft.config import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from tfhf.peft.model import get_peft_model
from tfhf.task import Task

LENGTH = 12
METHODS = {"lora": LoraConfig(r=4, lora_alpha=8, target_modules=("c_attn", "c_fc")),
           "lora_dropout": LoraConfig(r=4, lora_dropout=0.3),
           "prefix": PrefixTuningConfig(num_virtual_tokens=3),
           "prompt": PromptTuningConfig(num_virtual_tokens=3)}


@dataclasses.dataclass(frozen=True)
class LanguageConfig(Config):
    method: str = "lora"
    base_seed: int = 0


class LanguageTask(Task):
    name, Config, record_type, reference_field, buckets = "peft_language", LanguageConfig, TOKENS, "id", (LENGTH,)

    @classmethod
    def tiny(cls):
        return cls(LanguageConfig())

    def preprocess(self, example, bucket, training):
        ids = tf.ensure_shape(tf.cast(example["input_ids"], tf.int32), [LENGTH])
        return {"input_ids": ids}, ids, 1.0

    def base_model(self):
        """The weights go by the config, not by the run's seed: as if they were loaded."""
        base = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2,
                                          resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
        rng = np.random.default_rng(self.config.base_seed)
        for variable in base.trainable_variables:
            variable.assign(rng.normal(0, 0.3, variable.shape) + ("gamma" in variable.path))
        return base

    def build_model(self):
        return get_peft_model(self.base_model(), METHODS[self.config.method])

    def loss(self):
        def next_token(ids, logits):
            losses = keras.losses.sparse_categorical_crossentropy(ids[:, 1:], logits[:, :-1], from_logits=True)
            return ops.mean(losses, axis=-1)

        return next_token

    def decode(self, model, inputs):
        return [int(row[-1]) for row in np.argmax(ops.convert_to_numpy(model(inputs, training=False)), axis=-1)]


def examples(count=32):
    """Counting up from a random number, by ones."""
    rng = np.random.default_rng(0)
    return [{"id": f"row-{number}", "input_ids": (rng.integers(20) + np.arange(LENGTH)) % 20,
             "segment_ids": np.ones(LENGTH, "int64"), "length": LENGTH} for number in range(count)]
