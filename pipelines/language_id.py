"""Language identification: which language is spoken, from SpeechText records with their `language` field.

Papers: Baevski et al. 2020, "wav2vec 2.0"; Tjandra et al. 2021, "Improved Language Identification Through Cross-Lingual
Self-Supervised Learning" (arXiv 2107.04082): the mean of the last layer's frames into one linear layer is all the head
there is, and a pretrained model of many languages needs ten minutes of each for 89.2 % accuracy over 26 of them.

    tfhf records audiofolder --folder SPEECH --out gs://BUCKET/languages          (records carry the language)
    tfhf train language_id --strategy tpu output=gs://BUCKET/run data.path=gs://BUCKET/languages task.classes=en,de,hi
    tfhf evaluate language_id --split test ...       accuracy, recall and precision by class, the confusion matrix

`default`, written for a v3-8: XLSR-53 (315 M parameters), clips of up to 10 s, 8 a core x 8 cores = 64 a step, the
convolutions frozen, rate 5e-5 after a tenth of warm-up, 10,000 steps. 10 s are 499 frames; a layer's attention is
8 x 16 x 499 x 499 numbers a core, 64 MB in bfloat16, so activations are computed again in the backward pass. Not run by
us: no checkpoint can be had here. Other checkpoints: task.pretrained=facebook/mms-300m, facebook/wav2vec2-xls-r-300m.

`tiny_cpu`: four languages from nothing on two CPU cores, 48,000 clips in ten minutes. English, German, Spanish and
French of eSpeak NG (`tfhf records espeak --variants --texts FILE`, a voice, a tab and a sentence a line) it tells apart
in sentences and voices that it never heard; tests/test_language_id_proofs.py makes the texts and measures it.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfhf.config import Config
from tfhf.data.audio import load_audio, tone_wav
from tfhf.data.class_weights import ClassWeights
from tfhf.data.labels import check_model_labels
from tfhf.data.schema import SPEECH_TEXT, RecordError
from tfhf.data.shapes import int16_window
from tfhf.decoding.compile import compiled
from tfhf.metrics.classification import Accuracy, ConfusionMatrix
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.convert import small_config, tiny_config
from tfhf.models.wav2vec2.model import Wav2Vec2ForSequenceClassification
from tfhf.models.wav2vec2.processor import Wav2Vec2FeatureExtractor
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig
from tfhf.serving import waveform_signatures
from tfhf.task import Task, TaskError

SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class LanguageIdConfig(Config):
    """`pretrained`: a Hugging Face folder or hub id, or "scratch": random weights in the shape of `model`, which counts
    for nothing otherwise. `classes`: the languages, as the records name them; a record of another is an error.
    `max_seconds`: what clips are filled up to. `new_head`: whether a new head is begun, whatever the checkpoint has.
    `class_weights`: "balanced", or a number for each language (tfhf/data/class_weights.py)."""

    pretrained: str
    classes: tuple[str, ...]
    new_head: bool = True
    max_seconds: float = 10.0
    model: Wav2Vec2Config = Wav2Vec2Config.of_size("xlsr-53")
    apply_spec_augment: bool = True
    recompute_activations: bool = False
    class_weights: ClassWeights = ()


class LanguageIdTask(Task):  # waveforms in, the name of a language out
    name, Config, record_type, reference_field = "language_id", LanguageIdConfig, SPEECH_TEXT, "language"

    def __init__(self, config):
        super().__init__(config)
        self.classes = config.classes
        if len(config.classes) < 2 or len(set(config.classes)) < len(config.classes):
            raise TaskError(f"task.classes: got {config.classes}, expected two languages or more, none of them twice")
        self.buckets = (round(16000 * config.max_seconds),)
        self._logits = None

    @classmethod
    def tiny(cls):
        return cls(LanguageIdConfig(SCRATCH, ("en", "de", "hi"), True, 1.0, tiny_config(), False))

    def _label(self, language, clip):
        language, clip = (np.asarray(text).item().decode("utf-8") for text in (language, clip))
        if language not in self.config.classes:
            raise RecordError(f"{clip}: the language is {language!r}, expected one of task.classes: "
                              f"{', '.join(self.config.classes)}")
        return np.int32(self.config.classes.index(language))

    def preprocess(self, example, bucket, training):
        label = tf.numpy_function(self._label, [example["language"], example["id"]], tf.int32)
        inputs = {"input_values": int16_window(example["audio"], bucket), "input_lengths": tf.size(example["audio"])}
        return inputs, tf.ensure_shape(label, []), 1.0

    def build_model(self):
        o = self.config
        changes = {"num_labels": len(o.classes), "labels": tuple(o.classes), "apply_spec_augment": o.apply_spec_augment,
                   "recompute_activations": o.recompute_activations}
        if o.pretrained == SCRATCH:
            return Wav2Vec2ForSequenceClassification(dataclasses.replace(o.model, **changes))
        model = Wav2Vec2ForSequenceClassification.from_pretrained(o.pretrained, o.new_head, **changes)
        if not o.new_head:
            check_model_labels(self, model.pretrained_folder)
        return model

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        return [Accuracy(), ConfusionMatrix(self.config.classes)]

    def decode(self, model, inputs):
        if self._logits is None or self._logits[0] is not model:
            self._logits = model, compiled(lambda batch: model(batch, training=False), jit_compile=None)
        best = np.argmax(np.asarray(self._logits[1](inputs)), axis=-1)
        return [self.config.classes[number] for number in best]

    def load_inputs(self, path):
        return Wav2Vec2FeatureExtractor().window(load_audio(path), self.buckets[-1], name=path)

    def signatures(self, model):
        classes = np.array(self.config.classes)

        def answer(logits):
            best = tf.gather(tf.constant(classes), tf.argmax(logits, axis=-1))
            return {"label": best, "probabilities": tf.nn.softmax(logits)}

        return waveform_signatures(model, self.buckets[-1], answer)

    def example_requests(self):
        return {"serving_default": {"wav": [tone_wav()]}}


TASK = LanguageIdTask
TINY = small_config(hidden_size=96, num_hidden_layers=2, intermediate_size=192, conv_dim=(32, 64, 96, 96),
                    classifier_proj_size=96, do_stable_layer_norm=False)
RECIPES = {
    "default": RunConfig(
        output="runs/language_id", data=DataConfig("records"), batch_size=64, eval_batch_size=64, steps=10_000,
        precision="mixed_bfloat16", steps_per_execution=10, log_every=50, checkpoint_every=1000, evaluate_every=1000,
        freeze=("/feature_extractor/",), optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=1000),
        task=LanguageIdConfig("facebook/wav2vec2-large-xlsr-53", ("en", "de", "es", "fr"))),
    "tiny_cpu": RunConfig(
        output="runs/language_id", data=DataConfig("records"), batch_size=16, eval_batch_size=16, steps=3000,
        log_every=50, checkpoint_every=500, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50),
        task=LanguageIdConfig(SCRATCH, ("en", "de", "es", "fr"), True, 4.4, TINY, False)),
}
