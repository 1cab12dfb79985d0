"""Text classification: one of several labels for a text, with BERT (MiniLM) or GPT-2, from text_label records.

Papers: Devlin et al. 2018, "BERT", section 4.1; Wang et al. 2020, "MiniLM"; Radford et al. 2018 (from the last token).
Records: `tfhf records reviews`, or `tfhf records text --label-field …`.

    tfhf records reviews --out DIR
    tfhf train text_classification --recipe reviews_frozen task.pretrained=MINILM --data DIR --output RUN
    tfhf evaluate text_classification --recipe reviews_frozen task.pretrained=MINILM --data DIR --output RUN
    tfhf export text_classification --recipe reviews_frozen task.pretrained=MINILM --data DIR --output RUN

MINILM: all-MiniLM-L6-v2, a Hugging Face folder or its hub id. `reviews_frozen` trains the linear layer over the mean of
the tokens' states and nothing else; `reviews` trains all 22.7 M parameters, three epochs at 5e-5 (Devlin et al.,
appendix A.3: 2 to 4 epochs, rates of 2e-5 to 5e-5); `reviews_lora` the head and LoRA of rank 8 beside queries and
values (Hu et al. 2021, section 4.2), 74,498 parameters, five epochs. Figures on the 600 held-out sentences, two CPU
cores: see docs/results.md. `default`, for a v3-8: bert-base, batch 32 a core. Not run by us.
"""

import dataclasses
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfhf.config import Config
from tfhf.data.class_weights import ClassWeights
from tfhf.data.labels import check_model_labels, checked_label
from tfhf.data.schema import TEXT_LABEL
from tfhf.data.text import read_text
from tfhf.decoding.compile import compiled
from tfhf.metrics.classification import Accuracy, ByNumber, ConfusionMatrix
from tfhf.models.bert.convert import write_tiny_checkpoint
from tfhf.models.classifiers import classifier_folder
from tfhf.optimizers import OptimizerConfig
from tfhf.peft.config import LoraConfig
from tfhf.peft.model import adapted
from tfhf.run import DataConfig, RunConfig
from tfhf.serving import text_label_signatures
from tfhf.task import Task, TaskError
from tfhf.tokenizers.in_graph import classifier_inputs, in_graph_tokenizer, text_of


@dataclasses.dataclass(frozen=True)
class TextClassificationConfig(Config):
    """`pretrained`: a Hugging Face folder or hub id of a BERT or GPT-2, with tokenizer.json. `classes`: names, in the
    order of the records' numbers. `new_head`: begin a new head, whatever the checkpoint has. A text of up to
    `max_bytes[i]` becomes `max_tokens[i]` tokens, cut if it has more; of more bytes it is an error. Files and requests
    have the last length. `pooling`, of BERT: "mean" or "cls". `lora`: train an adapter and the head alone.
    `class_weights`: "balanced", or a number for each class (tfhf/data/class_weights.py)."""

    pretrained: str
    classes: tuple[str, ...]
    new_head: bool = True
    max_tokens: tuple[int, ...] = (128,)
    max_bytes: tuple[int, ...] = (4096,)
    pooling: str = "cls"
    dropout: float = 0.1
    recompute_activations: bool = False
    lora: LoraConfig | None = None
    class_weights: ClassWeights = ()


class TextClassificationTask(Task):  # texts in, the name of a class out
    name, Config, record_type, reference_field = "text_classification", TextClassificationConfig, TEXT_LABEL, "label"

    def __init__(self, config):
        super().__init__(config)
        self.classes = config.classes
        if len(config.classes) < 2 or len(set(config.classes)) < len(config.classes):
            raise TaskError(f"task.classes: got {config.classes}, expected two names or more, none of them twice")
        if len(config.max_tokens) != len(config.max_bytes):
            raise TaskError(f"task.max_tokens: got {config.max_tokens}, expected one for each of {config.max_bytes}")
        folder, self.classifier = classifier_folder(config.pretrained)
        self.tokenizer = in_graph_tokenizer(folder / "tokenizer.json")
        self.buckets = config.max_bytes
        self._logits = None

    @classmethod
    def tiny(cls):
        folder = write_tiny_checkpoint(tempfile.mkdtemp(prefix="tfhf-tiny-bert-"))
        return cls(TextClassificationConfig(folder, ("bad", "good", "odd"), True, (24,), (256,), "mean", 0.0))

    def inputs_of(self, texts, length=None):
        return classifier_inputs(self.tokenizer, texts, self.config.max_tokens[-1] if length is None else length)

    def preprocess(self, example, bucket, training):
        o, label = self.config, checked_label(example, len(self.config.classes))
        length = o.max_tokens[0] if len(o.max_tokens) == 1 else tf.gather(
            tf.constant(o.max_tokens, tf.int64), tf.searchsorted(o.max_bytes, [bucket]))[0]
        return {name: value[0] for name, value in self.inputs_of(text_of(example)[None], length).items()}, label, 1.0

    def build_model(self):
        o = self.config
        model = self.classifier.from_pretrained(o.pretrained, o.new_head, o.dropout, o.pooling,
                                                num_labels=len(o.classes), labels=tuple(o.classes),
                                                recompute_activations=o.recompute_activations)
        if not o.new_head:
            check_model_labels(self, model.pretrained_folder)
        return adapted(model, o.lora, "SEQ_CLS")

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        classes = self.config.classes
        return [ByNumber(Accuracy(), classes), ByNumber(ConfusionMatrix(classes), classes)]

    def decode(self, model, inputs):
        if self._logits is None or self._logits[0] is not model:
            self._logits = model, compiled(lambda batch: model(batch, training=False), jit_compile=None)
        best = np.argmax(np.asarray(self._logits[1](inputs)), axis=-1)
        return [self.config.classes[number] for number in best]

    def load_inputs(self, path):
        return {key: value[0].numpy() for key, value in self.inputs_of([read_text(path)]).items()}

    def signatures(self, model):
        return text_label_signatures(model, self.inputs_of, self.config.classes)

    def example_requests(self):
        return {"serving_default": {"text": ["The food was good.", "Never again: cold, slow & dear!"]}}


TASK = TextClassificationTask
_REVIEWS = RunConfig(
    output="runs/reviews", data=DataConfig("records", eval_split="test"), batch_size=32, eval_batch_size=120, steps=225,
    log_every=25, checkpoint_every=0, jit_compile=False,
    optimizer=OptimizerConfig(learning_rate=5e-5, schedule="linear", warmup_steps=22, weight_decay=0.01),
    task=TextClassificationConfig("sentence-transformers/all-MiniLM-L6-v2", ("negative", "positive"), pooling="mean",
                                  max_tokens=(24, 40, 72), max_bytes=(48, 96, 1024)))
RECIPES = {
    "default": RunConfig(
        output="runs/text_classification", data=DataConfig("records"), batch_size=256, eval_batch_size=256, steps=3000,
        precision="mixed_bfloat16", steps_per_execution=10, log_every=50, checkpoint_every=500, evaluate_every=500,
        optimizer=OptimizerConfig(learning_rate=5e-5, schedule="linear", warmup_steps=300, weight_decay=0.01),
        task=TextClassificationConfig("google-bert/bert-base-uncased", ("negative", "positive"))),
    "reviews": _REVIEWS,
    "reviews_frozen": dataclasses.replace(
        _REVIEWS, output="runs/reviews_frozen", steps=750, freeze=("/bert/",),
        optimizer=OptimizerConfig(learning_rate=1e-2, schedule="linear", warmup_steps=20),
        task=dataclasses.replace(_REVIEWS.task, dropout=0.0)),
    "reviews_lora": dataclasses.replace(
        _REVIEWS, output="runs/reviews_lora", steps=375,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", warmup_steps=37, weight_decay=0.01),
        task=dataclasses.replace(_REVIEWS.task, lora=LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05))),
}
