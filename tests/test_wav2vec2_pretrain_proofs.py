"""Pretraining learns from sound alone, and what it learns is of use to CTC: the long proof (`make nightly`).

The Asterisk prompts, 25 minutes of one voice, and the recipe `tiny_cpu`; the figures are printed.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.wav2vec2_pretrain import RECIPES, TASK
from tfhf import run
from tfhf.data.audio import load_audio
from tfhf.data.records import RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tfhf.losses.ctc import CTCLoss
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC
from tfhf.optimizers import OptimizerConfig, make_optimizer
from tfhf.train_steps import Trainer
from tfhf.weights import assign_reference_weights, reference_weights
from tfrecords.asterisk import Asterisk

pytestmark = pytest.mark.nightly

LETTERS = "abcdefghijklmnopqrstuvwxyz' "
SAMPLES, LABELS, BATCH, STEPS = 48000, 64, 8, 300
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def prompts(assets):
    """split -> list of {id, audio float32, text}"""
    asterisk = Asterisk(assets("asterisk-prompts"))
    return {split: [{**item, "audio": load_audio(item["audio"])} for item in asterisk.examples(split)]
            for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def pretrained(prompts, tmp_path_factory):
    """The run's history and figures, and the folder of the trained model."""
    folder = tmp_path_factory.mktemp("pretraining")
    for split in ("train", "validation"):
        with RecordWriter(folder / "records", split, SPEECH_TEXT, writer="proof", options={}, dataset={}) as writer:
            for item in prompts[split]:
                writer.write({name: item[name] for name in ("id", "audio", "text", "language")})
    config = RECIPES["tiny_cpu"].override([f"output={folder}/run", f"data.path={folder}/records"])
    run.train(TASK, config)
    figures = {name: run.evaluate(TASK, config, checkpoint=name) for name in ("initial", "last")}
    run.load_trained(TASK(config.task), config.output).save_pretrained(folder / "model")
    return figures, folder / "model"


def test_masked_frames_are_told_far_better_than_by_chance(pretrained):
    figures, _ = pretrained
    chance = 1 / (1 + RECIPES["tiny_cpu"].task.model.num_negatives)
    words = RECIPES["tiny_cpu"].task.model.num_codevectors_per_group * 2
    for name, figure in figures.items():
        print(f"\n{name}: contrastive accuracy {figure['contrastive_accuracy']:.3f} (chance {chance:.3f}), codebook "
              f"perplexity {figure['code_perplexity']:.1f} of {words}; {figure['masked_frames']} held-out frames")
    assert figures["last"]["contrastive_accuracy"] > 8 * chance
    assert figures["last"]["code_perplexity"] > words / 4


def _batches(items, seed):
    """Batches of clips of up to three seconds with letters in their text: (inputs, labels)."""
    rows = []
    for item in items:
        labels = [1 + LETTERS.index(letter) for letter in item["text"].lower() if letter in LETTERS]
        if len(item["audio"]) <= SAMPLES and 0 < len(labels) <= LABELS:
            audio, padded = np.zeros(SAMPLES, "int16"), np.full(LABELS, -100, "int32")
            audio[:len(item["audio"])] = np.round(item["audio"] * 32767)
            padded[:len(labels)] = labels
            rows.append((audio, np.int32(len(item["audio"])), padded))
    order = np.random.default_rng(seed)
    while True:
        shuffled = order.permutation(len(rows))
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            audio, lengths, labels = (np.stack(part) for part in zip(*(rows[i] for i in shuffled[start:start + BATCH])))
            yield {"input_values": audio, "input_lengths": lengths}, labels


def _learner(config, frozen):
    """A CTC model, its optimizer, and its compiled train and evaluation steps."""
    model = Wav2Vec2ForCTC(config)
    if frozen:
        model.freeze_feature_encoder()
    schedule = OptimizerConfig(learning_rate=1e-3, warmup_steps=20, schedule="constant", weight_decay=0.01)
    optimizer = make_optimizer(schedule, model, STEPS)
    trainer = Trainer(model, CTCLoss(config, zero_infinity=True), seed=0, num_replicas=1, max_traces=1)
    trainer.compile(optimizer=optimizer, jit_compile=True)
    return model, optimizer, *(tf.function(step, jit_compile=True)
                               for step in (trainer.train_step, trainer.evaluation_step))


def test_ctc_from_pretrained_features_beats_ctc_from_random_ones(pretrained, prompts):
    """Equal steps, batches and heads, three seeds; the loss on held-out clips.

    The pretrained convolutions stay as they are, as in every published fine-tuning; the random ones are trained, which
    does better than to leave them.
    """
    options = {"vocab_size": len(LETTERS) + 1, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    good = Wav2Vec2ForCTC.from_pretrained(pretrained[1], new_head=True, **options)
    losses = {}
    for begin in ("random", "pretrained"):
        model, optimizer, step, evaluate = _learner(good.config, frozen=begin == "pretrained")
        fresh, ones = [variable.numpy() for variable in optimizer.variables], tf.ones([BATCH])
        losses[begin] = []
        for seed in SEEDS:
            keras.utils.set_random_seed(100 + seed)
            tensors = reference_weights(Wav2Vec2ForCTC(good.config))
            if begin == "pretrained":
                tensors |= {name: value for name, value in reference_weights(good).items() if "lm_head" not in name}
            assign_reference_weights(model, tensors, where=begin)
            for variable, value in zip(optimizer.variables, fresh):
                variable.assign(value)
            batches, held_out = _batches(prompts["train"], seed), _batches(prompts["validation"] + prompts["test"], 0)
            for inputs, labels in (next(batches) for _ in range(STEPS)):
                step((inputs, labels, ones))
            sums = [evaluate(*next(held_out), ones) for _ in range(8)]
            losses[begin].append(float(sum(loss for loss, _ in sums)) / float(sum(weight for _, weight in sums)))
        print(f"\nCTC loss on held-out prompts after {STEPS} steps from {begin} features: "
              f"{', '.join(f'{value:.2f}' for value in losses[begin])}; mean {np.mean(losses[begin]):.2f}")
    assert max(losses["pretrained"]) < min(losses["random"])
