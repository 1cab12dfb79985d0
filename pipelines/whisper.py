"""Whisper: speech recognition and translation, fine-tuned on SpeechText records.

Paper: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision". Recipes: `default`, any
checkpoint, any records; `quickstart`, tiny.en on the Asterisk prompts on 2 CPU cores (figures in docs/results.md);
`hindi_small`, the classic run, Whisper-small on Common Voice 11 Hindi, train + validation, 8 h, written for a v3-8:

    tfhf records audiofolder --folder cv-corpus-11.0-2022-09-21/hi --out gs://BUCKET/hi
    tfhf train whisper --recipe hindi_small --strategy tpu output=gs://BUCKET/run data.path=gs://BUCKET/hi
    tfhf evaluate whisper --recipe hindi_small --split test output=gs://BUCKET/run data.path=gs://BUCKET/hi

16 clips a core x 8 cores = 128 a step. The published run took 4,000 steps of 16 = 64,000 clips; 500 of 128 are as many.
Its learning rate 1e-5 grows with the root of the batch's factor 8 to 2.8e-5, its warm-up of 500 shrinks to 62. Goal:
32.0 % WER by `basic`, which strips Devanagari vowel signs; `indic` keeps them and stands beside it. Not run by us.
"""

import dataclasses
import tempfile

import tensorflow as tf

from tfhf.config import Config
from tfhf.data.audio import load_audio, tone_wav
from tfhf.data.audio_graph import decode_to_16khz
from tfhf.data.schema import SPEECH_TEXT
from tfhf.data.shapes import fixed_length, int16_window
from tfhf.losses.cross_entropy import TokenCrossEntropy
from tfhf.metrics.word_errors import CharacterErrorRate, WordErrorRate
from tfhf.models.whisper.convert import write_tiny_checkpoint
from tfhf.models.whisper.labels import TranscriptLabels
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.models.whisper.processor import WhisperProcessor
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig
from tfhf.task import Task, TaskError
from tfhf.tokenizers.byte_level import ByteLevelDecoder


@dataclasses.dataclass(frozen=True)
class WhisperTaskConfig(Config):
    """`pretrained`: a Hugging Face folder or hub id, or a CTranslate2 folder; to begin from nothing, save one.
    Clips of up to `max_seconds[i]` have up to `max_label_tokens[i]` tokens, more are an error: short clips need not pay
    for the logits of long ones. `leading_space`: the published models begin with a space, and fine-tuning begins where
    they stand. `language`, a code, an English name or a tag such as pt-BR, is that of all labels and answers; the run
    says so where a record has another one. None: labels and `evaluate` go by each record, and files are heard."""

    pretrained: str = "openai/whisper-tiny"
    language: str | None = None
    task: str = "transcribe"
    max_seconds: tuple[float, ...] = (30.0,)
    max_label_tokens: tuple[int, ...] = (128,)
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
        self.processor = WhisperProcessor.from_pretrained(config.pretrained)
        self.max_samples = self.processor.feature_extractor.max_samples
        self.buckets = tuple(min(round(16000 * s), self.max_samples) for s in config.max_seconds)
        if len(self.buckets) != len(config.max_label_tokens):
            raise TaskError(f"max_label_tokens: got {config.max_label_tokens}, expected one for each of max_seconds")
        self.labels = TranscriptLabels(self.processor.tokenizer, config.language, config.task, config.leading_space)

    @classmethod
    def tiny(cls):
        folder = write_tiny_checkpoint(tempfile.mkdtemp(prefix="tfhf-tiny-whisper-"))
        return cls(WhisperTaskConfig(pretrained=folder, max_label_tokens=(32,), max_new_tokens=16))

    def preprocess(self, example, bucket, training):
        lengths, end = self.config.max_label_tokens, self.processor.tokenizer.special.end
        length = lengths[0] if len(lengths) == 1 else tf.gather(lengths, tf.searchsorted(self.buckets, [bucket]))[0]
        record = [example[name] for name in ("text", "language", "id")]
        labels = tf.numpy_function(self.labels.of_record, [*record, length + 1], tf.int32)
        labels = tf.ensure_shape(labels, [None])
        inputs = {"input_values": int16_window(example["audio"], self.max_samples),
                  "decoder_input_ids": fixed_length(labels[:-1], length, end)}
        return inputs, fixed_length(labels[1:], length, -100), tf.cast(tf.size(labels) - 1, tf.float32)

    def build_model(self):
        changes = {k: getattr(self.config, k) for k in ("apply_spec_augment", "dropout", "recompute_activations")}
        model = WhisperForConditionalGeneration.from_pretrained(self.config.pretrained, **changes)
        model.processor = self.processor
        return model

    def loss(self):
        return TokenCrossEntropy(self.config.label_smoothing)

    def metrics(self):
        return [kind(name) for name in self.config.normalizers for kind in (WordErrorRate, CharacterErrorRate)]

    def decode(self, model, inputs):
        o, prompts = self.config, self.labels.prompts_of(inputs.get("decoder_input_ids"))
        ids = model.generate({"input_values": inputs["input_values"]}, self.labels.language, o.task,
                             num_beams=o.num_beams, max_new_tokens=o.max_new_tokens, decoder_input_ids=prompts)
        # ASCII white space only, as tf.strings.strip in the export.
        return [text.strip(" \t\n\r\v\f") for text in self.processor.tokenizer.batch_decode(ids)]

    def load_inputs(self, path):
        return {"input_values": self.processor.feature_extractor.window(load_audio(path), name=path)}

    def signatures(self, model):
        tokenizer, o = self.processor.tokenizer, self.config
        decoder = ByteLevelDecoder(tokenizer.path, model.config.vocab_size, tokenizer.special.end,
                                   tokenizer.added_texts())

        def tokens(inputs):
            return model.transcript_tokens(inputs, o.language, o.task, o.max_new_tokens, o.num_beams)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
        def serving_default(wav):
            audio = decode_to_16khz(wav, max_samples=self.max_samples)
            return {"text": tf.strings.strip(decoder.decode(tokens({"input_values": audio})))}

        @tf.function(input_signature=[tf.TensorSpec([None, model.config.num_mel_bins, self.max_samples // 160])])
        def raw(input_features):
            return {"ids": tokens({"input_features": input_features})}

        return {"serving_default": serving_default, "raw": raw}

    def example_requests(self):
        return {"serving_default": {"wav": [tone_wav()]}}


TASK = WhisperTask
_ANY = RunConfig(
    output="runs/whisper", data=DataConfig(path="records"), task=WhisperTaskConfig(), batch_size=16, steps=1000,
    optimizer=OptimizerConfig(learning_rate=1e-5, warmup_steps=50), evaluate_every=250, checkpoint_every=250)
RECIPES = {
    "default": _ANY,
    "quickstart": dataclasses.replace(  # label shapes of 32 for most clips: their logits are a third of the work
        _ANY, output="runs/quickstart", batch_size=4, steps=200, log_every=5, evaluate_every=0, checkpoint_every=100,
        eval_batch_size=10, freeze=("model/encoder/",), jit_compile=False, data=DataConfig("records", drop_longer=True),
        optimizer=OptimizerConfig(learning_rate=3e-5, schedule="cosine", warmup_steps=10),
        task=WhisperTaskConfig(max_seconds=(10.0, 30.0), max_label_tokens=(32, 128))),
    "hindi_small": dataclasses.replace(
        _ANY, output="runs/hindi", batch_size=128, eval_batch_size=64, steps=500, precision="mixed_bfloat16",
        steps_per_execution=10, log_every=10, evaluate_every=100, checkpoint_every=100,
        optimizer=OptimizerConfig(learning_rate=2.8e-5, warmup_steps=62),
        task=WhisperTaskConfig(pretrained="openai/whisper-small", language="hi", normalizers=("basic", "indic"),
                               max_label_tokens=(224,), max_new_tokens=224)),
}
