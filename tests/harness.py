"""The checks that every task's model passes. A test file calls them with the task class and a few raw examples.

    from tests import harness
    def test_checks(tmp_path): harness.check_task(MyTask, examples, tmp_path)

`examples` are dicts as `record_type.encode` takes them, at least 16. `Task.tiny()` must be without randomness in
training (no dropout), since replicas rightly draw different masks. Every check is a function of its own as well; each
raises AssertionError. What needs a fresh process (virtual devices, the JAX backend) starts this file as a script:

    python tests/harness.py replicas|outputs MODULE:CLASS FOLDER
"""

import copy
import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BATCH = 8


def check_task(task_class, examples, tmp_path, *, pad=None, loss_steps=20, learning_rate=1e-2, skip=()):
    """All checks but those named in `skip`; `pad` as in check_padded_equals_unpadded, which is left out without it."""
    checks = {
        "shapes": lambda: check_shapes(task_class, examples),
        "save_and_load": lambda: check_save_and_load(task_class, examples, tmp_path),
        "plain_keras": lambda: check_plain_keras(task_class, examples, tmp_path),
        "bfloat16": lambda: check_bfloat16(task_class, examples),
        "xla": lambda: check_xla_equals_eager(task_class, examples),
        "loss_falls": lambda: check_loss_falls(task_class, examples, steps=loss_steps, learning_rate=learning_rate),
        "replicas": lambda: check_replicas(task_class, examples, tmp_path),
    }
    unknown = set(skip) - set(checks)
    assert not unknown, f"skip names no checks: {sorted(unknown)}; known: {sorted(checks)}"
    for name, check in checks.items():
        if name not in skip:
            check()
    if pad is not None:
        check_padded_equals_unpadded(task_class, examples, pad)


def batch_of(task, examples, count=BATCH, training=False):
    """The first `count` examples through encode, decode and preprocess: (inputs, targets, weight), batched tensors."""
    import tensorflow as tf

    assert len(examples) >= count, f"got {len(examples)} examples, expected at least {count}"
    bucket = task.buckets[-1]
    rows = []
    for number, example in enumerate(examples[:count]):
        decoded = task.record_type.decode(tf.constant(task.record_type.encode(example)))
        decoded["seed"] = tf.constant([number, 0], tf.int32)
        rows.append(task.preprocess(decoded, bucket if len(task.buckets) == 1 else tf.constant(bucket), training))
    return tf.nest.map_structure(lambda *parts: tf.stack(parts), *rows)


def check_shapes(task_class, examples):
    """preprocess gives static shapes, the model one output per example, the loss one finite float per example."""
    import tensorflow as tf

    from tfhf.train_steps import example_losses

    task = task_class.tiny()

    def prepare(serialized):
        decoded = task.record_type.decode(serialized)
        decoded["seed"] = tf.zeros([2], tf.int32)
        return task.preprocess(decoded, task.buckets[0], True)

    specs = tf.data.Dataset.from_tensors("").map(prepare).element_spec
    for spec in tf.nest.flatten(specs):
        assert spec.shape.is_fully_defined(), (
            f"preprocess gives {specs}, expected static shapes with a Python int bucket"
        )
    assert specs[2].shape == (), f"weight has shape {specs[2].shape}, expected a scalar"
    inputs, targets, weight = batch_of(task, examples)
    outputs = task.build_model()(inputs, training=False)
    for output in tf.nest.flatten(outputs):
        assert output.shape[0] == BATCH, f"an output has shape {output.shape}, expected {BATCH} examples"
    losses = example_losses(task.loss(), targets, outputs, weight).numpy()
    assert np.isfinite(losses).all() and (weight.numpy() > 0).all(), (losses, weight)
    answers = task.decode(task.build_model(), inputs)
    assert len(answers) == BATCH, f"decode gave {len(answers)} predictions for {BATCH} examples"


def check_save_and_load(task_class, examples, tmp_path):
    """A checkpoint of one model, loaded into another, gives the same outputs to the bit."""
    from tfhf.checkpoints import load_checkpoint, save_checkpoint

    task = task_class.tiny()
    first = task.build_model()
    folder = save_checkpoint(str(tmp_path / "save_and_load"), 1, first)
    second = task.build_model()
    for variable in second.trainable_variables:
        variable.assign(variable * 0.5 + 0.25)
    inputs, _, _ = batch_of(task, examples)
    expected = _arrays(first(inputs, training=False))
    assert any(not np.array_equal(a, b) for a, b in zip(expected, _arrays(second(inputs, training=False))))
    load_checkpoint(folder, second)
    for a, b in zip(expected, _arrays(second(inputs, training=False)), strict=True):
        np.testing.assert_array_equal(a, b)


def check_plain_keras(task_class, examples, tmp_path):
    """The model as people use any Keras model: saved as .keras and loaded, copied, cloned; outputs are the same. Only
    for models of the library: a test's own need not be registered.

    That a process which imports tfhf alone loads every model, and exports, are in tests/test_keras_classes.py.
    """
    import keras

    task = task_class.tiny()
    model = task.build_model()
    if not type(model).__module__.startswith("tfhf."):
        return
    inputs, _, _ = batch_of(task, examples)
    expected = _arrays(model(inputs, training=False))
    assert keras.saving.get_registered_name(type(model)).startswith("tfhf>"), f"{type(model)} is not registered"
    path = tmp_path / "model.keras"
    model.save(path)
    clone = keras.models.clone_model(model)
    _copy_weights(model, clone)
    for other in (keras.models.load_model(path, compile=False), copy.deepcopy(model), clone):
        _assert_close(_arrays(other(inputs, training=False)), expected, 1e-5, "a copied model differs")


def check_bfloat16(task_class, examples, tolerance=0.05):
    """The same weights under mixed_bfloat16: variables stay float32, outputs within `tolerance` of the largest one."""
    import keras

    task = task_class.tiny()
    inputs, _, _ = batch_of(task, examples)
    model = task.build_model()
    expected = _arrays(model(inputs, training=False))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        lower = task.build_model()
        _copy_weights(model, lower)
        got = _arrays(lower(inputs, training=False))
        narrow = _narrow_convolutions(lower, inputs)
    finally:
        keras.config.set_dtype_policy(before)
    assert not narrow, f"bfloat16 kernels of few channels, which some processors compute wrongly: {narrow}"
    assert any(layer.compute_dtype == "bfloat16" for layer in lower._flatten_layers()), "no layer computes in bfloat16"
    assert all(v.dtype == "float32" for v in lower.trainable_variables), "a trainable variable is not float32"
    for a, b in zip(expected, got, strict=True):
        worst = np.max(np.abs(a - b.astype("float32"))) / np.max(np.abs(a))
        assert worst <= tolerance, f"bfloat16 is off by {worst:.4f} of the largest output, expected at most {tolerance}"


def _narrow_convolutions(model, inputs):
    """The shapes of the bfloat16 kernels in the model's graph that tfhf/layers/convolution.py keeps away from."""
    import tensorflow as tf

    from tfhf.layers.convolution import RIGHT_CHANNELS

    graph = tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(inputs).graph
    kernels = [operation.inputs[1] for operation in graph.get_operations() if operation.type == "Conv2D"]
    return [tuple(kernel.shape) for kernel in kernels
            if kernel.dtype == tf.bfloat16 and max(kernel.shape[:2]) > 1 and kernel.shape[2] < RIGHT_CHANNELS]


def check_xla_equals_eager(task_class, examples, tolerance=1e-4):
    """Compiled by XLA and run op by op: outputs within `tolerance` of the largest one."""
    import tensorflow as tf

    task = task_class.tiny()
    inputs, _, _ = batch_of(task, examples)
    model = task.build_model()
    expected = _arrays(model(inputs, training=False))
    got = _arrays(tf.function(lambda batch: model(batch, training=False), jit_compile=True)(inputs))
    _assert_close(got, expected, tolerance, "XLA differs from eager")


def check_padded_equals_unpadded(task_class, examples, pad, tolerance=1e-4):
    """More padding changes no answer. `pad(inputs) -> inputs` gives the same batch with longer padding; outputs are
    compared on the part that both have."""
    task = task_class.tiny()
    inputs, _, _ = batch_of(task, examples)
    model = task.build_model()
    expected, got = _arrays(model(inputs, training=False)), _arrays(model(pad(inputs), training=False))
    got = [b[tuple(slice(size) for size in a.shape)] for a, b in zip(expected, got, strict=True)]
    _assert_close(got, expected, tolerance, "more padding changes the outputs")


def check_loss_falls(task_class, examples, steps=20, learning_rate=1e-2, factor=0.7):
    """One batch trained on for `steps` updates by the runner's own step: the loss falls below `factor` of the first."""
    import tensorflow as tf

    from tfhf.optimizers import OptimizerConfig, make_optimizer
    from tfhf.train_steps import Trainer

    task = task_class.tiny()
    model = task.build_model()
    inputs, targets, weight = batch_of(task, examples, training=True)
    trainer = Trainer(model, task.loss(), seed=0, num_replicas=1, max_traces=1)
    config = OptimizerConfig(learning_rate=learning_rate, schedule="constant")
    trainer.compile(optimizer=make_optimizer(config, model, steps), jit_compile=True)
    step = tf.function(trainer.train_step, jit_compile=True)
    batch = (inputs, targets, weight * BATCH / tf.reduce_sum(weight))
    losses = [float(step(batch)["loss"]) for _ in range(steps)]
    assert losses[-1] < factor * losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f} in {steps} steps"
    still = [v.path for v in model.trainable_variables if not np.isfinite(v.numpy()).all()]
    assert not still, f"not finite after training: {still[:5]}"


def check_replicas(task_class, examples, tmp_path, replicas=8, steps=20, tolerance=1e-4):
    """`replicas` virtual CPU replicas and one device: loss curve and weights agree within `tolerance`, relative."""
    folder = _prepare(task_class, examples, tmp_path / "replicas", replicas=replicas, steps=steps)
    found = _in_fresh_process("replicas", task_class, folder, {})
    one, many = found["none"], found[f"cpu:{replicas}"]
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=tolerance)
    for path, a, b in zip(one["paths"], many["weights"], one["weights"], strict=True):
        difference, size = np.linalg.norm(a - b), np.linalg.norm(b)
        assert difference <= tolerance * size, f"{path}: differs by {difference / max(size, 1e-30):.2e}, relative"


def check_jax_backend(task_class, examples, tmp_path, tolerance=1e-4):
    """The same weights and inputs on Keras' JAX backend: outputs within `tolerance` of the largest one."""
    import pytest

    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed; the JAX backend cannot be compared")
    task = task_class.tiny()
    model = task.build_model()
    inputs, _, _ = batch_of(task, examples)
    folder = tmp_path / "jax"
    folder.mkdir()
    weights = [variable.numpy() for variable in model.weights]
    payload = {"weights": weights, "inputs": {key: value.numpy() for key, value in inputs.items()}}
    (folder / "payload.pickle").write_bytes(pickle.dumps(payload))
    found = _in_fresh_process("outputs", task_class, folder, {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"})
    assert found["backend"] == "jax"
    _assert_close(found["outputs"], _arrays(model(inputs, training=False)), tolerance, "JAX differs from TensorFlow")


def _assert_close(got, expected, tolerance, what):
    for a, b in zip(got, expected, strict=True):
        worst = np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)
        assert worst <= tolerance, f"{what}: {worst:.2e} of the largest output, expected at most {tolerance}"


def _arrays(outputs):
    """Model outputs -> list of numpy arrays; bfloat16 becomes float32, which numpy can compare."""
    import keras

    arrays = [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]
    return [a if a.dtype.kind in "fiub" and a.dtype.itemsize > 2 else a.astype("float32") for a in arrays]


def _copy_weights(source, target):
    for a, b in zip(source.weights, target.weights, strict=True):
        b.assign(a.numpy())


def _prepare(task_class, examples, folder, **options):
    from tfhf.data.records import RecordWriter

    with RecordWriter(folder / "records", "train", task_class.record_type) as writer:
        for example in examples:
            writer.write(example)
    (folder / "options.json").write_text(json.dumps(options))
    return folder


def _in_fresh_process(action, task_class, folder, environment):
    name = f"{task_class.__module__}:{task_class.__qualname__}"
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment, "PYTHONPATH": paths}
    command = [sys.executable, str(Path(__file__).resolve()), action, name, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr[-4000:]}"
    return pickle.loads((folder / "result.pickle").read_bytes())


def _replicas(task_class, folder):
    from tfhf.optimizers import OptimizerConfig
    from tfhf.run import DataConfig, RunConfig, load_trained, train
    from tfhf.strategy import make_runtime

    options = json.loads((folder / "options.json").read_text())
    many = f"cpu:{options['replicas']}"
    make_runtime(many)  # before tiny(), which may well use TensorFlow
    task, found = task_class.tiny(), {}
    for strategy in ("none", many):
        config = RunConfig(
            output=str(folder / strategy),
            data=DataConfig(str(folder / "records")),
            task=task.config,
            strategy=strategy,
            batch_size=options["replicas"],
            eval_batch_size=options["replicas"],
            steps=options["steps"],
            checkpoint_every=0,
            # epsilon: Adam divides rounding noise by itself where a gradient is zero but for rounding.
            optimizer=OptimizerConfig(
                learning_rate=1e-3, schedule="constant", warmup_steps=5, weight_decay=0.01, epsilon=1e-6
            ),
        )
        history = train(_with_tiny(task_class), config)
        model = load_trained(task, config.output)
        found[strategy] = {
            "loss": history["loss"],
            "weights": [v.numpy() for v in model.trainable_variables],
            "paths": [v.path for v in model.trainable_variables],
        }
    return found


def _with_tiny(task_class):
    """The runner makes the task from its config; the tiny one may differ in more (its buckets, say)."""

    class Tiny(task_class):
        def __new__(cls, config):
            return task_class.tiny()

    Tiny.__name__ = task_class.__name__
    return Tiny


def _outputs(task_class, folder):
    import keras

    payload = pickle.loads((folder / "payload.pickle").read_bytes())
    model = task_class.tiny().build_model()
    assert len(model.weights) == len(payload["weights"]), (len(model.weights), len(payload["weights"]))
    for variable, value in zip(model.weights, payload["weights"]):
        variable.assign(value)
    outputs = model(
        {key: keras.ops.convert_to_tensor(value) for key, value in payload["inputs"].items()}, training=False
    )
    return {"backend": keras.backend.backend(), "outputs": _arrays(outputs)}


def _main(action, name, folder):
    module, _, qualified_name = name.partition(":")
    task_class = importlib.import_module(module)
    for part in qualified_name.split("."):
        task_class = getattr(task_class, part)
    result = {"replicas": _replicas, "outputs": _outputs}[action](task_class, Path(folder))
    (Path(folder) / "result.pickle").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _main(*sys.argv[1:])
