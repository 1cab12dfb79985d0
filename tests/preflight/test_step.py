"""The programs of a run for one core: real shapes without data or checkpoints, and every task compiles for a v3-8."""

import dataclasses
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import pipelines
from tests import image_toy_task, toy_task
from tfhf.config import ConfigError
from tfhf.models.classifiers import classifier_folder
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC
from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer
from tfhf.preflight import PreflightError, compile_for_tpu
from tfhf.preflight.published import no_checkpoints
from tfhf.preflight.step import batch_spec, prepared_steps
from tfhf.run import DataConfig, RunConfig
from tfhf.tokenizers.bert_wordpiece import BertWordPiece
from tfhf.tokenizers.byte_level_bpe import ByteLevelBPE
from tfhf.tokenizers.in_graph import classifier_inputs, in_graph_tokenizer

CORES = 8


def tasks():
    """Every module of pipelines/ that is a task."""
    modules = [importlib.import_module(f"pipelines.{found.name}") for found in pkgutil.iter_modules(pipelines.__path__)
               if found.name not in ("__main__", "quickstart")]
    return {module.__name__.rpartition(".")[2]: module.TASK for module in modules if hasattr(module, "TASK")}


def tiny_run(task, **changes):
    """A run of a task at its smallest; nothing of it is read."""
    values = {"output": "none", "data": DataConfig("none"), "task": task.config, "batch_size": 2 * CORES,
              "eval_batch_size": CORES, "precision": "mixed_bfloat16"}
    return RunConfig(**{**values, **changes})


@pytest.mark.parametrize("name", tasks())
def test_every_task_compiles_for_a_v3_8(name):
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    task = tasks()[name].tiny()
    with prepared_steps(lambda _: task, tiny_run(task), "train", CORES) as prepared:
        step, = prepared.steps
        compiled = compile_for_tpu(step.function, step.specs, "v3:2x2", step.replicas)
    assert compiled.replicas == CORES and "all-reduce" in compiled.hlo
    # The weights, and AdamW's two moments of each, are updated where they lie.
    trainable = sum(int(np.prod(v.shape)) for v in step.model.trainable_variables)
    assert 3 * 4 * trainable <= compiled.alias_bytes <= compiled.argument_bytes


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["evaluate", "generate"])
@pytest.mark.parametrize("name", tasks())
def test_evaluation_and_decoding_compile_as_well(name, kind):
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    task = tasks()[name].tiny()
    with prepared_steps(lambda _: task, tiny_run(task), kind, CORES) as prepared:
        for step in prepared.steps:
            compiled = compile_for_tpu(step.function, step.specs, "v3:2x2", step.replicas)
            assert compiled.replicas == (CORES if kind == "evaluate" else 1) and compiled.temporary_bytes > 0


def _lowered(task, kind="train", make=None, **changes):
    with prepared_steps(make or (lambda _: task), tiny_run(task, **changes), kind, CORES) as prepared:
        step = prepared.steps[0]
        return step, step.function.experimental_get_compiler_ir(*step.specs)(stage="hlo")


def test_the_train_step_is_the_real_one():
    """Its all-reduces: the weight, one for each gradient, the loss; with the number of the replica in the seeds."""
    task = toy_task.ToyTask(toy_task.ToyConfig(dropout=0.1))
    step, hlo = _lowered(task)
    assert step.names == ("inputs/length", "inputs/values", "targets", "weight")
    assert [tuple(spec.shape) for spec in step.specs] == [(2,), (2, 12), (2,), (2,)]
    assert step.examples == 2 * CORES
    gradients = len(step.model.trainable_variables)
    assert hlo.count(" all-reduce(") == 1 + gradients + 1
    assert "replica_groups={{0,1,2,3,4,5,6,7}}" in hlo and " replica-id()" in hlo


def test_accumulation_is_one_loop_and_averages_are_kept():
    task = toy_task.ToyTask.tiny()
    plain, without = _lowered(task)
    _, with_loop = _lowered(task, accumulate=2)
    averaged, with_averages = _lowered(task, ema_decay=0.999)
    assert without.count(" while(") == 0 and with_loop.count(" while(") == 1
    assert "f32[2,12,16]" in without and "f32[2,12,16]" not in with_loop and "f32[1,12,16]" in with_loop
    aliases = [text.partition("\n")[0].count("may-alias") for text in (without, with_averages)]
    assert aliases[1] - aliases[0] == len(averaged.model.trainable_variables)
    assert plain.with_examples(48).specs[1].shape == (6, 12)


def test_adversarial_steps_lower_too():
    """Both networks' updates in one program."""
    step, hlo = _lowered(image_toy_task.PaintTask.tiny(), precision="float32")
    assert hlo.count(" all-reduce(") > len(step.model.trainable_variables)


def test_evaluation_is_summed_over_the_cores():
    step, hlo = _lowered(toy_task.ToyTask.tiny(), "evaluate")
    assert hlo.count(" all-reduce(") == 2 and step.specs[0].shape == (1,)


def test_shapes_of_several_buckets_are_those_of_the_longest():
    """Where the graph does not tell them, a batch does."""
    inputs, _, weight = batch_spec(toy_task.BucketedToyTask.tiny(), 4, True)
    assert inputs["values"].shape == (4, 12) and weight.shape == (4,)
    whisper = tasks()["whisper"].tiny()
    config = dataclasses.replace(whisper.config, max_seconds=(0.5, 1.0), max_label_tokens=(16, 32))
    inputs, targets, _ = batch_spec(tasks()["whisper"](config), 2, True)
    assert inputs["decoder_input_ids"].shape == targets.shape == (2, 32)


@pytest.fixture
def no_hub(monkeypatch):
    """Fails when the hub is asked."""
    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)


@pytest.mark.usefixtures("no_hub")
def test_a_published_recipe_needs_no_download():
    """Whisper tiny in the shapes of its config: the encoder, then the loop over its keys and values."""
    module = importlib.import_module("pipelines.whisper")
    config = dataclasses.replace(module.RECIPES["default"], eval_batch_size=CORES)
    with prepared_steps(module.TASK, config, "generate", CORES) as prepared:
        encode, decode = prepared.steps
    assert encode.model.count_params() == 37_760_640
    assert encode.specs[0] == tf.TensorSpec((CORES, 480_000), tf.int16)
    assert tuple(decode.specs[0].shape) == (CORES, 6, 1500, 64) and encode.replicas == 1


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name, parameters", [("wav2vec2-base-960h", 94_396_320)])
def test_published_names_are_models_of_their_size(name, parameters):
    with no_checkpoints():
        assert Wav2Vec2CTCTokenizer.from_pretrained(f"facebook/{name}").vocab_size == 32
        assert Wav2Vec2ForCTC.from_pretrained(f"facebook/{name}").count_params() == parameters
        with pytest.raises(AssertionError, match="the hub was asked"):   # for the JSON files of what is not known
            Wav2Vec2CTCTokenizer.from_pretrained("someone/wav2vec2-of-theirs")
        with pytest.raises(FileNotFoundError, match="no such folder"):
            Wav2Vec2CTCTokenizer.from_pretrained("vocabulary")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("task, pretrained, parameters, row", [
    ("text_classification", "sentence-transformers/all-MiniLM-L6-v2", 22_713_216 + 2 * 385, 128),
    ("text_classification", "distilbert/distilgpt2", 81_912_576 + 2 * 768, 128),   # its head has no bias
    ("gpt2_finetune", "distilbert/distilgpt2", 81_912_576, 1024),
])
def test_text_recipes_need_no_download(task, pretrained, parameters, row):
    module = importlib.import_module(f"pipelines.{task}")
    config = module.RECIPES["default"].override([f"task.pretrained={pretrained}", f"batch_size={CORES}"])
    with prepared_steps(module.TASK, config, "train", CORES) as prepared:
        step, = prepared.steps
    assert step.model.count_params() == parameters and tuple(step.specs[0].shape) == (1, row)


@pytest.mark.usefixtures("no_hub")
def test_a_stage_that_begins_with_another_run_needs_neither_it_nor_vgg19():
    module = importlib.import_module("pipelines.srgan")
    config = module.RECIPES["adversarial"].override(["task.model.num_residual_blocks=1", f"batch_size={CORES}"])
    with prepared_steps(module.TASK, config, "train", CORES) as prepared:
        step, = prepared.steps
    assert tuple(step.specs[0].shape) == (1, 24, 24, 3)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name, kind, size", [
    ("openai-community/gpt2", ByteLevelBPE, 50257), ("google-bert/bert-base-uncased", BertWordPiece, 30522),
    ("google-bert/bert-base-cased", BertWordPiece, 28996)])
def test_published_text_models_have_a_tokenizer_of_their_size(name, kind, size):
    with no_checkpoints():
        folder, classifier = classifier_folder(name)
        tokenizer = in_graph_tokenizer(folder / "tokenizer.json")
        config, _ = classifier.model_class.read_folder(folder)
        ids = classifier_inputs(tokenizer, ["any text"], 16)["input_ids"]
    assert isinstance(tokenizer, kind) and tokenizer.vocab_size == config.vocab_size == size and ids.shape == (1, 16)


def test_precision_is_the_recipes_and_then_as_before():
    before, task = keras.config.dtype_policy(), toy_task.ToyTask.tiny()
    with prepared_steps(lambda _: task, tiny_run(task), "train", CORES) as prepared:
        assert prepared.steps[0].model.expand.compute_dtype == "bfloat16"
    assert keras.config.dtype_policy() == before


@pytest.mark.parametrize("changes, kind, words", [
    ({"batch_size": 12}, "train", "batch_size: got 12, expected a multiple of the 8 replicas"),
    ({}, "serve", "step: got 'serve', expected one of train, evaluate, generate"),
    ({}, "generate", r"decode\(\) compiles nothing"),
])
def test_what_cannot_be_prepared(changes, kind, words):
    task = toy_task.ToyTask.tiny()
    with pytest.raises((ConfigError, PreflightError), match=words):
        with prepared_steps(lambda _: task, tiny_run(task, **changes), kind, CORES):
            pass
