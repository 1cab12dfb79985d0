"""Whisper: speech recognition and translation, fine-tuned on SpeechText records.

Paper: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision". Recipe `default` takes any
checkpoint and any records; `quickstart` is tiny.en on the Asterisk prompts on 2 CPU cores, with its figures in
docs/results.md; `hindi_small` is the classic run, Whisper-small on Common Voice 11 Hindi, train + validation, 8 h:

    tfhf records audiofolder cv-corpus-11.0-2022-09-21/hi --out gs://BUCKET/hi
    tfhf train whisper --recipe hindi_small --strategy tpu output=gs://BUCKET/run data.path=gs://BUCKET/hi
    tfhf evaluate whisper --recipe hindi_small --split test output=gs://BUCKET/run data.path=gs://BUCKET/hi

On a v3-8: 16 clips a core x 8 cores = 128 a step. The published run took 4,000 steps of 16 clips = 64,000 clips, 9.8
epochs of 6,540; 500 steps of 128 are the same 64,000. Its learning rate 1e-5 grows with the square root of the batch's
factor 8 to 2.8e-5, its warm-up of 500 steps shrinks to 62. Expected: 32.0 % WER by the Whisper (`basic`) normaliser,
which strips Devanagari vowel signs; `indic`, which keeps them, is reported beside it. Not run on a TPU by us.
"""

import dataclasses
import tempfile

import numpy as np
import tensorflow as tf

from tfhf.config import Config
from tfhf.data.audio import load_audio
from tfhf.data.audio_graph import decode_to_16khz
from tfhf.data.schema import SPEECH_TEXT
from tfhf.data.shapes import fixed_length, int16_window
from tfhf.losses.cross_entropy import TokenCrossEntropy
from tfhf.metrics.word_errors import CharacterErrorRate, WordErrorRate
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.convert import write_tiny_checkpoint
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.models.whisper.processor import WhisperProcessor
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig
from tfhf.task import Task
from tfhf.tokenizers.byte_level import ByteLevelDecoder


@dataclasses.dataclass(frozen=True)
class WhisperTaskConfig(Config):
    """`pretrained` is a Hugging Face folder or hub id or a CTranslate2 folder; without it `model` gets random weights
    and `processor` names the folder of the tokenizer. Label tokens beyond `max_label_tokens` are an error.
    `leading_space` puts the space before a transcript that the published models write themselves: with it fine-tuning
    begins where the checkpoint stands. `language` may be None for English-only models and for mixed speech."""

    pretrained: str = ""
    processor: str = ""
    model: WhisperConfig = WhisperConfig()
    language: str | None = "en"
    task: str = "transcribe"
    max_label_tokens: int = 128
    label_smoothing: float = 0.0
    apply_spec_augment: bool = False
    recompute_activations: bool = False
    dropout: float = 0.0
    normalizers: tuple[str, ...] = ("whisper-english",)
    leading_space: bool = True
    num_beams: int = 1
    max_new_tokens: int = 128


class WhisperTask(Task):  # waveforms in, transcripts out
    name, Config, record_type, reference_field = "whisper", WhisperTaskConfig, SPEECH_TEXT, "text"
    def __init__(self, config):
        super().__init__(config)
        self.processor = WhisperProcessor.from_pretrained(config.processor or config.pretrained)
        self.max_samples = self.processor.feature_extractor.max_samples
        self.buckets = (self.max_samples,)

    @classmethod
    def tiny(cls):
        folder = write_tiny_checkpoint(tempfile.mkdtemp(prefix="tfhf-tiny-whisper-"))
        return cls(WhisperTaskConfig(pretrained=folder, max_label_tokens=32, max_new_tokens=16))

    def _labels(self, text):
        options, text = self.config, np.asarray(text).item().decode("utf-8").strip()
        return np.array(self.processor.tokenizer.labels(
            " " + text if options.leading_space else text, options.language, options.task,
            max_length=options.max_label_tokens + 1), "int32")

    def preprocess(self, example, bucket, training):
        length, end = self.config.max_label_tokens, self.processor.tokenizer.special.end
        labels = tf.ensure_shape(tf.numpy_function(self._labels, [example["text"]], tf.int32), [None])
        inputs = {"input_values": int16_window(example["audio"], bucket),
                  "decoder_input_ids": fixed_length(labels[:-1], length, end)}
        return inputs, fixed_length(labels[1:], length, -100), tf.cast(tf.size(labels) - 1, tf.float32)

    def build_model(self):
        o, kind = self.config, WhisperForConditionalGeneration
        changes = {name: getattr(o, name) for name in ("apply_spec_augment", "dropout", "recompute_activations")}
        model = (kind.from_pretrained(o.pretrained, **changes) if o.pretrained
                 else kind(dataclasses.replace(o.model, **changes)))
        model.processor = self.processor
        return model

    def loss(self):
        return TokenCrossEntropy(self.config.label_smoothing)

    def metrics(self):
        return [kind(name) for name in self.config.normalizers for kind in (WordErrorRate, CharacterErrorRate)]

    def decode(self, model, inputs):
        o, audio = self.config, {"input_values": inputs["input_values"]}
        ids = model.generate(audio, o.language, o.task, num_beams=o.num_beams, max_new_tokens=o.max_new_tokens)
        # ASCII white space only, as tf.strings.strip in the export.
        return [text.strip(" \t\n\r\v\f") for text in self.processor.tokenizer.batch_decode(ids)]

    def load_inputs(self, path):
        return {"input_values": self.processor.feature_extractor.window(load_audio(path), name=path)}

    def signatures(self, model):
        tokenizer, o = self.processor.tokenizer, self.config
        decoder = ByteLevelDecoder(tokenizer.path, model.config.vocab_size, tokenizer.special.end)

        def tokens(inputs):
            return model.transcript_tokens(inputs, o.language, o.task, o.max_new_tokens, o.num_beams)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
        def serving_default(wav):
            audio = decode_to_16khz(wav, max_samples=self.max_samples)
            return {"text": tf.strings.strip(decoder.decode(tokens({"input_values": audio})))}

        features = tf.TensorSpec([None, model.config.num_mel_bins, self.max_samples // 160], name="input_features")

        @tf.function(input_signature=[features])
        def raw(input_features):
            return {"ids": tokens({"input_features": input_features})}

        return {"serving_default": serving_default, "raw": raw}


TASK = WhisperTask
_ANY = RunConfig(
    output="runs/whisper", data=DataConfig(path="records"), task=WhisperTaskConfig(), batch_size=16, steps=1000,
    optimizer=OptimizerConfig(learning_rate=1e-5, warmup_steps=50), evaluate_every=250, checkpoint_every=250)
RECIPES = {
    "default": _ANY,
    "quickstart": dataclasses.replace(
        _ANY, output="runs/quickstart", batch_size=4, steps=200, log_every=5, evaluate_every=0, checkpoint_every=100,
        eval_batch_size=10, freeze=("model/encoder/",), jit_compile=False, data=DataConfig("records", drop_longer=True),
        optimizer=OptimizerConfig(learning_rate=3e-5, schedule="cosine", warmup_steps=10)),
    "hindi_small": dataclasses.replace(
        _ANY, output="runs/hindi", batch_size=128, eval_batch_size=64, steps=500, precision="mixed_bfloat16",
        steps_per_execution=10, log_every=10, evaluate_every=100, checkpoint_every=100,
        optimizer=OptimizerConfig(learning_rate=2.8e-5, warmup_steps=62),
        task=WhisperTaskConfig(pretrained="openai/whisper-small", language="hi", normalizers=("basic", "indic"),
                               max_label_tokens=224, max_new_tokens=224, recompute_activations=True)),
}
