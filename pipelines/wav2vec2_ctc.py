"""wav2vec 2.0 with CTC: speech recognition, fine-tuned on SpeechText records.

Papers: Baevski et al. 2020, "wav2vec 2.0", section 4.3 and appendix B; Graves et al. 2006, "Connectionist Temporal
Classification". Two stages, as published: first the new head alone, then all but the convolutions, written for a v3-8:

    tfhf records audiofolder --folder LibriSpeech/train-960 --out gs://BUCKET/ls960
    tfhf train wav2vec2_ctc --recipe head --strategy tpu output=gs://BUCKET/head data.path=gs://BUCKET/ls960
    tfhf train wav2vec2_ctc --recipe finetune --strategy tpu output=gs://BUCKET/run data.path=gs://BUCKET/ls960 \
        task.start_from=gs://BUCKET/head
    tfhf evaluate wav2vec2_ctc --recipe finetune --split test-clean output=gs://BUCKET/run data.path=gs://BUCKET/ls960
32 clips a core x 8 cores = 256 a step, of up to 246,000 samples (15.375 s, 768 frames) and 256 symbols; 960 h are
281,000 clips, 1,098 steps an epoch. Activations are kept: the step fits a core (docs/preflight.md). Head: 1
epoch at 2e-4. All: 15 epochs at 5e-5, warm-up of a tenth, then linearly down (published base: 320,000 steps of 1.6 h at
3e-5 or 1e-4 by the amount of data). Goal: 3.4 % WER on test-clean, greedy, as wav2vec2-base-960h; 1.8-2.6 % with a
4-gram (task.decoder.language_model). Not run by us. `tiny_cpu`: a small model from nothing on two CPU cores; figures in
docs/results.md.

The vocabulary is the checkpoint's, or of a folder that `Wav2Vec2CTCTokenizer.from_corpus(texts).save_pretrained` wrote.
"""

import dataclasses
import tempfile

import tensorflow as tf

from tfhf import checkpoints
from tfhf.config import Config
from tfhf.data.audio import load_audio, tone_wav
from tfhf.data.schema import SPEECH_TEXT
from tfhf.data.shapes import fixed_length, int16_window
from tfhf.losses.ctc import CTCLoss
from tfhf.metrics.word_errors import CharacterErrorRate, WordErrorRate
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.convert import read_config, small_config, tiny_config
from tfhf.models.wav2vec2.labels import CTCLabels
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC
from tfhf.models.wav2vec2.processor import Wav2Vec2FeatureExtractor
from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig
from tfhf.serving import waveform_signatures
from tfhf.task import Task, TaskError
from tfhf.tokenizers.ctc_decoder import CTCDecoderConfig, Wav2Vec2CTCDecoder

SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class Wav2Vec2CTCConfig(Config):
    """`pretrained`: a Hugging Face folder or hub id, or "scratch": random weights in the shape of `model`, which counts
    for nothing otherwise. `new_head`: the checkpoint has no head, or another vocabulary's. `vocabulary`: folder with a
    vocab.json, None: `pretrained`. `start_from`: a run's folder, whose last checkpoint training begins with.
    `unknown`: characters that the vocabulary lacks are an "error", or dropped ("drop"), or "unk". `zero_infinity`:
    clips too short for their transcript teach nothing, instead of being an error."""

    pretrained: str = "facebook/wav2vec2-base"
    vocabulary: str | None = None
    new_head: bool = False
    start_from: str | None = None
    model: Wav2Vec2Config = Wav2Vec2Config()
    max_seconds: float = 15.375
    max_label_symbols: int = 256
    unknown: str = "error"
    zero_infinity: bool = False
    apply_spec_augment: bool = True
    recompute_activations: bool = False
    normalizers: tuple[str, ...] = ("basic",)
    decoder: CTCDecoderConfig = CTCDecoderConfig()


class Wav2Vec2CTCTask(Task):  # waveforms in, transcripts out
    name, Config, record_type, reference_field = "wav2vec2_ctc", Wav2Vec2CTCConfig, SPEECH_TEXT, "text"

    def __init__(self, config):
        super().__init__(config)
        if config.pretrained == SCRATCH and config.vocabulary is None:
            raise TaskError("task.vocabulary: got None with task.pretrained=scratch, expected a folder with vocab.json")
        self.tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(config.vocabulary or config.pretrained)
        self.buckets = (round(16000 * config.max_seconds),)
        self.decoder = Wav2Vec2CTCDecoder(self.tokenizer, config.decoder)
        model = config.model if config.pretrained == SCRATCH else read_config(config.pretrained)
        self.labels = CTCLabels(self.tokenizer, model, config.unknown, config.max_label_symbols, config.zero_infinity)

    @classmethod
    def tiny(cls):
        folder = tempfile.mkdtemp(prefix="tfhf-tiny-wav2vec2-")
        Wav2Vec2CTCTokenizer.from_corpus(["please hold the line"], log=lambda line: None).save_pretrained(folder)
        return cls(Wav2Vec2CTCConfig(SCRATCH, folder, model=tiny_config(), max_seconds=1.0, max_label_symbols=32,
                                     apply_spec_augment=False))

    def preprocess(self, example, bucket, training):
        record = [example["text"], example["id"], tf.size(example["audio"]), training]
        labels = tf.numpy_function(self.labels.of_record, record, tf.int32)
        inputs = {"input_values": int16_window(example["audio"], bucket), "input_lengths": tf.size(example["audio"])}
        return inputs, fixed_length(tf.ensure_shape(labels, [None]), self.config.max_label_symbols, -100), 1.0

    def build_model(self):
        o, tokenizer = self.config, self.tokenizer
        changes = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_token_id,
                   "apply_spec_augment": o.apply_spec_augment, "recompute_activations": o.recompute_activations}
        if o.pretrained == SCRATCH:
            model = Wav2Vec2ForCTC(dataclasses.replace(o.model, **changes))
        else:
            model = Wav2Vec2ForCTC.from_pretrained(o.pretrained, o.new_head, **changes)
        if o.start_from is not None:
            checkpoints.load_newest(o.start_from, model)
        return model

    def loss(self):
        return CTCLoss(self.tokenizer.pad_token_id, self.config.zero_infinity)

    def metrics(self):
        return [kind(name) for name in self.config.normalizers for kind in (WordErrorRate, CharacterErrorRate)]

    def decode(self, model, inputs):
        return self.decoder.texts(model, inputs)

    def load_inputs(self, path):
        return Wav2Vec2FeatureExtractor().window(load_audio(path), self.buckets[-1], name=path)

    def signatures(self, model):
        return waveform_signatures(model, self.buckets[-1], self.decoder.answer)

    def example_requests(self):
        return {"serving_default": {"wav": [tone_wav()]}}


TASK = Wav2Vec2CTCTask
_ANY = RunConfig(
    output="runs/wav2vec2_ctc", data=DataConfig("records"), batch_size=256, eval_batch_size=256, steps=16_000,
    precision="mixed_bfloat16", steps_per_execution=50, log_every=50, checkpoint_every=1000, evaluate_every=1000,
    freeze=("/feature_extractor/",), optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=1600, beta_2=0.98),
    task=Wav2Vec2CTCConfig(vocabulary="facebook/wav2vec2-base-960h", new_head=True))
RECIPES = {
    "default": _ANY,
    "head": dataclasses.replace(_ANY, steps=1100, freeze=("wav2vec2/",), output="runs/wav2vec2_ctc_head",
                                optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=100)),
    "finetune": _ANY,
    "tiny_cpu": RunConfig(
        output="runs/wav2vec2_ctc", data=DataConfig("records", drop_longer=True), batch_size=8, eval_batch_size=8,
        steps=600, log_every=20, checkpoint_every=200,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=30, schedule="cosine"),
        task=Wav2Vec2CTCConfig("scratch", "vocabulary", model=small_config(), max_seconds=4.0, unknown="drop",
                               apply_spec_augment=False)),
}
