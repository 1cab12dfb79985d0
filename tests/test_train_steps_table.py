"""The table of docs/engine.md: however a global batch is split, 20 float32 steps end with the same weights.

`make nightly` trains all of them: TFHF_NIGHTLY=1 pytest -s tests.test_train_steps_table.py
"""

import importlib
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE, STEPS, BATCH, DECAY = 1e-5, 20, 32, 0.99
STRATEGIES, ACCUMULATE = ("none", "cpu:2", "cpu:8"), (1, 2, 4)
NAMES = {"none": "one device"}
# (strategy, accumulate, with averages); the first is what the others are held against.
GRID = [(*pair, averages) for pair in itertools.product(STRATEGIES, ACCUMULATE) for averages in (True, False)]
QUICK = {"image": [("none", 1, True), ("cpu:2", 2, False), ("cpu:8", 1, True)],
         "gan": [("none", 1, True), ("cpu:2", 2, True)]}
TASKS = {
    "image": "tests.image_toy_task:ImageTask",
    "gan": "tests.image_toy_task:PaintTask",
    "whisper": "pipelines.whisper:TASK",
}


def compare(tasks, grid, folder):
    """Train every task in every way, a task in a fresh process; {task: {way: (weights, averages or None)}}, the
    largest relative distance of a tensor from that of the first way."""
    environment, found = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}, {}
    for task in tasks:
        command = [sys.executable, "-m", "tests.test_train_steps_table", task, json.dumps(grid), str(folder / task)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-4000:]
        found[task] = pickle.loads((folder / task / "result.pickle").read_bytes())
    return found


def table(found):
    """The distances as a markdown table; averages in brackets."""
    lines = ["| strategy | accumulate | EMA | " + " | ".join(found) + " |", "|---|---|---|" + "---|" * len(found)]
    for strategy, accumulate, averages in next(iter(found.values())):
        cells = []
        for distances in found.values():
            weights, means = distances[strategy, accumulate, averages]
            cells.append(f"{weights:.1e}" + (f" ({means:.1e})" if averages else ""))
        row = [NAMES.get(strategy, strategy), str(accumulate), "on" if averages else "off", *cells]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def check(found):
    distances = [value for ways in found.values() for pair in ways.values() for value in pair if value is not None]
    assert max(distances) <= TOLERANCE, f"\n{table(found)}"
    assert sum(value > 0 for value in distances) >= len(distances) // 3, "nothing differs at all: was it trained apart?"


@pytest.mark.parametrize("task", QUICK)
def test_the_quick_rows(task, tmp_path):
    found = compare([task], QUICK[task], tmp_path)
    print("\n" + table(found))
    check(found)


@pytest.mark.nightly
def test_the_whole_table(tmp_path):
    found = compare(list(TASKS), GRID, tmp_path)
    print("\n" + table(found))
    check(found)


MEMORY = """
import resource, sys
import keras, tensorflow as tf
from tfhf.train_steps import Trainer
x = states = keras.Input((512,))
for _ in range(12):
    states = keras.layers.Dense(512, activation="gelu")(states)
model = keras.Model(x, keras.layers.Dense(1)(states))
trainer = Trainer(model, lambda targets, outputs: outputs[:, 0] ** 2, 0, 1, 1, accumulate=int(sys.argv[1]))
trainer.compile(optimizer=keras.optimizers.SGD(0.01))
trainer.optimizer.build(model.trainable_variables)
batch = tf.ones([8192, 512]), tf.ones([8192]), tf.ones([8192])
before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tf.function(trainer.train_step, jit_compile=True)(batch)["loss"].numpy()
print("MB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) // 1024)
"""


@pytest.mark.nightly
def test_micro_batches_take_less_memory():
    peaks = {}
    for accumulate in (1, 4, 16):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run([sys.executable, "-c", MEMORY, str(accumulate)], env=environment, capture_output=True,
                              text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        peaks[accumulate] = int(done.stdout.split("MB")[1])
    print(f"\npeak of resident memory above the idle process, MB by micro-batches: {peaks}")
    assert peaks[4] < 0.6 * peaks[1] and peaks[16] < peaks[4]


def _speech(count=64):
    """Clips of noise with texts of one to four words."""
    random = np.random.default_rng(0)
    words = "please hold the line".split()
    return [{"id": f"clip-{i}", "audio": random.normal(0, 0.1, 4000 + 100 * i).astype("float32"),
             "text": " ".join(random.choice(words, 1 + i % 4)), "language": "en"} for i in range(count)]


def task_class_of(name):
    """The task of that name in TASKS, as its tiny()."""
    from tests import harness

    module, _, attribute = TASKS[name].partition(":")
    return harness._with_tiny(getattr(importlib.import_module(module), attribute))


def write_records(name, folder):
    """The task's training records, in folder/records."""
    from tests import image_toy_task
    from tfhf.data.records import RecordWriter

    with RecordWriter(folder / "records", "train", task_class_of(name)(None).record_type) as writer:
        for example in _speech() if name == "whisper" else image_toy_task.examples(96):
            writer.write(example)


def config_of(name, folder, strategy, accumulate, averages):
    """The run of one cell of the table, on folder/records."""
    from tfhf.optimizers import OptimizerConfig
    from tfhf.run import DataConfig, RunConfig

    return RunConfig(
        output=str(folder / f"{strategy}-{accumulate}-{averages}"), data=DataConfig(str(folder / "records")),
        task=task_class_of(name)(None).config, strategy=strategy, batch_size=BATCH, steps=STEPS, checkpoint_every=0,
        accumulate=accumulate, ema_decay=DECAY if averages else None,
        # epsilon: Adam divides rounding noise by itself where a gradient is zero but for rounding.
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5, weight_decay=0.01, epsilon=1e-6),
    )


def _weights(name, folder, grid):
    """{way: (weights, averages or None)}, lists of arrays."""
    from tfhf.run import load_trained, train

    task_class, found = task_class_of(name), {}
    write_records(name, folder)
    for strategy, accumulate, averages in grid:
        config = config_of(name, folder, strategy, accumulate, averages)
        train(task_class, config)
        raw, means = ([v.numpy() for v in load_trained(task_class(None), config.output, averaged=choice)
                       .trainable_variables] for choice in (False, True))
        found[strategy, accumulate, averages] = raw, means if averages else None
    return found


def distance(ours, theirs):
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) for a, b in zip(ours, theirs, strict=True))


def _main(task, grid, folder):
    from tfhf.strategy import make_runtime

    make_runtime("cpu:8")  # before anything uses TensorFlow
    found = _weights(task, Path(folder), json.loads(grid))
    first = next(iter(found.values()))
    distances = {way: tuple(None if ours is None else float(distance(ours, theirs))
                            for ours, theirs in zip(pair, first)) for way, pair in found.items()}
    (Path(folder) / "result.pickle").write_bytes(pickle.dumps(distances))


if __name__ == "__main__":
    _main(*sys.argv[1:])
