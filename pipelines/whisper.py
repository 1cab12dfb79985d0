"""Whisper: speech recognition and translation, fine-tuned on SpeechText records.

Paper: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision".

Recipe `default`: any checkpoint, any records:

    tfhf train whisper output=runs/mine data.path=records task.pretrained=checkpoint

Recipe `hindi_small`, the classic run: Whisper-small on Common Voice 11 Hindi, train + validation, about 8 h of speech.

    tfhf records audiofolder cv-corpus-11.0-2022-09-21/hi --out gs://BUCKET/common_voice_hi
    tfhf train whisper --recipe hindi_small --strategy tpu output=gs://BUCKET/runs/hindi \\
        data.path=gs://BUCKET/common_voice_hi task.pretrained=openai/whisper-small
    tfhf evaluate whisper --recipe hindi_small --split test output=gs://BUCKET/runs/hindi \\
        data.path=gs://BUCKET/common_voice_hi task.pretrained=openai/whisper-small

Batch arithmetic on a v3-8: 16 a core x 8 cores = 128 clips a step. The published run took 4,000 steps of 16, that is
64,000 clips or 9.8 epochs of 6,540; here 500 steps x 128 clips are the same 64,000, the learning rate 1e-5 scaled by
the square root of 8 to 2.8e-5, warm-up 500 / 8 = 62 steps. Expected: 32.0 % WER with the Whisper normaliser, which
strips Devanagari vowel signs; the recipe reports the `indic` normaliser, which keeps them, beside it. Not run by us.

Recipe `quickstart`: tiny.en on the Asterisk prompts, 2 CPU cores, see pipelines/quickstart.py and docs/results.md.
"""

import dataclasses
import tempfile
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfhf.config import Config
from tfhf.data.audio import load_audio
from tfhf.data.audio_graph import decode_to_16khz
from tfhf.data.schema import SPEECH_TEXT
from tfhf.losses.cross_entropy import TokenCrossEntropy
from tfhf.metrics.word_errors import CharacterErrorRate, WordErrorRate
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.models.whisper.processor import WhisperProcessor
from tfhf.models.whisper.tokenizer import tiny_tokenizer_json
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig
from tfhf.task import Task
from tfhf.tokenizers.byte_level import ByteLevelDecoder


@dataclass(frozen=True)
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
    spec_augment: bool = False
    recompute_activations: bool = False
    dropout: float = 0.0
    normalizers: tuple[str, ...] = ("whisper-english",)
    leading_space: bool = True
    num_beams: int = 1
    max_new_tokens: int = 128


class WhisperTask(Task):
    """Waveforms in, transcripts out."""

    name, Config, record_type, reference_field = "whisper", WhisperTaskConfig, SPEECH_TEXT, "text"

    def __init__(self, config):
        super().__init__(config)
        self.processor = WhisperProcessor.from_pretrained(config.processor or config.pretrained)
        self.max_samples = self.processor.feature_extractor.max_samples
        self.buckets = (self.max_samples,)

    @classmethod
    def tiny(cls):
        folder = tempfile.mkdtemp(prefix="tfhf-tiny-whisper-")
        model = WhisperConfig(
            vocab_size=1767, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
            decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64, max_source_positions=50,
            max_target_positions=64, eos_token_id=256, pad_token_id=256, bos_token_id=256, decoder_start_token_id=257)
        tiny_tokenizer_json(f"{folder}/tokenizer.json", num_languages=2)
        WhisperForConditionalGeneration(model).save_pretrained(folder)
        return cls(WhisperTaskConfig(processor=folder, model=model, max_label_tokens=32, max_new_tokens=16))

    def _labels(self, text):
        options, text = self.config, np.asarray(text).item().decode("utf-8").strip()
        return np.array(self.processor.tokenizer.labels(
            " " + text if options.leading_space else text, options.language, options.task,
            max_length=options.max_label_tokens + 1), "int32")

    def preprocess(self, example, bucket, training):
        length = self.config.max_label_tokens
        labels = tf.numpy_function(self._labels, [example["text"]], tf.int32)
        labels = tf.ensure_shape(labels, [None])
        count = tf.size(labels) - 1
        padding = [[0, length - count]]
        # int16 halves the bytes to the device; the model turns it into float32 before the log-mel.
        audio = tf.cast(tf.round(example["audio"] * 32768.0), tf.int16)
        audio = tf.ensure_shape(tf.pad(audio, [[0, bucket - tf.size(audio)]]), [bucket])
        end = self.processor.tokenizer.special.end
        inputs = {"input_values": audio,
                  "decoder_input_ids": tf.ensure_shape(tf.pad(labels[:-1], padding, constant_values=end), [length])}
        targets = tf.ensure_shape(tf.pad(labels[1:], padding, constant_values=-100), [length])
        return inputs, targets, tf.cast(count, tf.float32)

    def build_model(self):
        options = self.config
        changes = dict(apply_spec_augment=options.spec_augment, dropout=options.dropout,
                       recompute_activations=options.recompute_activations)
        if options.pretrained:
            model = WhisperForConditionalGeneration.from_pretrained(options.pretrained, **changes)
        else:
            model = WhisperForConditionalGeneration(dataclasses.replace(options.model, **changes))
        model.processor = self.processor
        return model

    def loss(self):
        return TokenCrossEntropy(self.config.label_smoothing)

    def metrics(self):
        return [kind(name) for name in self.config.normalizers for kind in (WordErrorRate, CharacterErrorRate)]

    def decode(self, model, inputs):
        ids = model.generate({"input_values": inputs["input_values"]}, language=self.config.language,
                             task=self.config.task, num_beams=self.config.num_beams,
                             max_new_tokens=self.config.max_new_tokens)
        return [text.strip() for text in self.processor.tokenizer.batch_decode(ids)]

    def load_inputs(self, path):
        return {"input_values": np.asarray(self.processor.feature_extractor.pad(load_audio(path)))}

    def signatures(self, model):
        tokenizer, options, config = self.processor.tokenizer, self.config, model.config
        decoder = ByteLevelDecoder(tokenizer.path, config.vocab_size, tokenizer.special.end)

        def tokens(inputs):
            return model.transcript_tokens(inputs, options.language, options.task, options.max_new_tokens,
                                           options.num_beams)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
        def serving_default(wav):
            audio = decode_to_16khz(wav, max_samples=self.max_samples)
            return {"text": tf.strings.strip(decoder.decode(tokens({"input_values": audio})))}

        shape = [None, config.num_mel_bins, 2 * config.max_source_positions]

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="input_features")])
        def raw(input_features):
            return {"ids": tokens({"input_features": input_features})}

        return {"serving_default": serving_default, "raw": raw}


TASK = WhisperTask
RECIPES = {
    "default": RunConfig(
        output="runs/whisper", data=DataConfig(path="records"), task=WhisperTaskConfig(), batch_size=16, steps=1000,
        optimizer=OptimizerConfig(learning_rate=1e-5, schedule="linear", warmup_steps=50)),
}
