"""Adapters through the runner: only they are trained and saved, on one device and on replicas."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import harness
from tests.peft.language_task import LanguageConfig, LanguageTask, examples
from tfhf.checkpoints import CheckpointError, latest_checkpoint
from tfhf.data.records import RecordWriter
from tfhf.optimizers import OptimizerConfig
from tfhf.peft.model import PeftModel
from tfhf.run import DataConfig, RunConfig, load_trained, make_trainer, train
from tfhf.strategy import make_runtime
from tfhf.weights import reference_name


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for split in ("train", "validation"):
        with RecordWriter(folder, split, LanguageTask.record_type) as writer:
            for example in examples():
                writer.write(example)
    return str(folder)


def run_config(records, output, **changes):
    return RunConfig(**{**dict(
        output=str(output), data=DataConfig(records), task=LanguageConfig(), batch_size=8, eval_batch_size=8, steps=8,
        jit_compile=False, log_every=1, checkpoint_every=4,
        optimizer=OptimizerConfig(learning_rate=2e-2, schedule="constant", weight_decay=0.1)), **changes})


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_only_the_adapter_is_trained_and_saved(method, records, tmp_path):
    config = run_config(records, tmp_path / "run", task=LanguageConfig(method),
                        ema_decay=0.9 if method == "lora" else None)
    history = train(LanguageTask, config)
    assert method != "lora" or history["loss"][-1] < 0.9 * history["loss"][0], history["loss"]
    task = LanguageTask(config.task)
    before = {reference_name(v): v.numpy() for v in task.base_model().weights if v.dtype == "float32"}
    model, untrained = load_trained(task, config.output, averaged=False), task.build_model()
    for variable, other in zip(model.trainable_variables, untrained.trainable_variables, strict=True):
        assert not np.array_equal(variable.numpy(), other.numpy()), variable.path
    for variable in model.base_model.weights:
        name = reference_name(variable)
        if name in before:  # all that is not the adapter's
            np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)
    whole = sum(value.nbytes for value in before.values())
    trained = 4 * model.get_nb_trainable_parameters()[0]
    size = os.path.getsize(os.path.join(latest_checkpoint(config.output)[1], "weights.safetensors"))
    assert trained < size < trained + 5000 < whole
    model.save_pretrained(tmp_path / "adapter")
    assert os.path.getsize(tmp_path / "adapter" / "adapter_model.safetensors") < trained + 2000
    batch = {"input_ids": np.stack([example["input_ids"] for example in examples(4)]).astype("int32")}
    again = PeftModel.from_pretrained(task.base_model(), tmp_path / "adapter")
    np.testing.assert_allclose(again(batch), model(batch), atol=1e-6)
    with pytest.raises(CheckpointError, match="trained over other ones"):
        load_trained(LanguageTask(LanguageConfig(method, base_seed=1)), config.output)


def test_a_resumed_run_goes_on_as_the_uninterrupted_one(records, tmp_path):
    whole = train(LanguageTask, run_config(records, tmp_path / "whole", task=LanguageConfig("lora_dropout")))
    train(LanguageTask, run_config(records, tmp_path / "parts", task=LanguageConfig("lora_dropout"), steps=4))
    parts = train(LanguageTask, run_config(records, tmp_path / "parts", task=LanguageConfig("lora_dropout")))
    assert parts["start_step"] == 4 and parts["loss"] == whole["loss"]


def test_the_compiled_step_in_bfloat16_holds_no_gradient_of_a_frozen_weight(records, tmp_path):
    config = run_config(records, tmp_path, precision="mixed_bfloat16")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trainer = make_trainer(LanguageTask(config.task), config, make_runtime("none"))
        assert len(trainer.optimizer.variables) == 1 + 2 * len(trainer.model.trainable_variables) == 9
        inputs, targets, weight = harness.batch_of(LanguageTask.tiny(), examples())
        step = tf.function(trainer.train_step, jit_compile=True)
        losses = [float(step((inputs, targets, weight))["loss"]) for _ in range(6)]
    finally:
        keras.config.set_dtype_policy("float32")
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


def test_replicas_give_what_one_device_gives(tmp_path):
    harness.check_replicas(LanguageTask, examples(), tmp_path, replicas=2, steps=4)
