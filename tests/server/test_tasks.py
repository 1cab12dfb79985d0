"""Every task's export through `tfhf serve`: REST and gRPC give the Python model's answers, at batch 1, 3 and 8."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.__main__ import load_task, task_names
from tests.server.running import running
from tfhf.client import Client, wav_bytes
from tfhf.export import export

pytestmark = pytest.mark.nightly
RANDOM = np.random.default_rng(0)
TEXTS = ["please hold the line", "a", "Good, very good; I liked it.", "é ü ñ", "no", "it was bad " * 3, "…", "x y z"]


def clip(number):
    rate = (16_000, 8_000)[number % 2]
    return wav_bytes(RANDOM.normal(0, 0.1, round((0.2 + 0.09 * number) * rate)).astype(np.float32), rate)


def picture(number):
    pixels = RANDOM.integers(0, 256, (32 + 5 * number, 48 - 2 * number, 3), np.uint8)
    return tf.io.encode_png(pixels).numpy() if number % 2 else tf.io.encode_jpeg(pixels).numpy()


MADE = {"wav": clip, "text": TEXTS.__getitem__, "prompt": TEXTS.__getitem__, "image": picture}
TASKS = [name for name in task_names() if name != "quickstart"]


@pytest.mark.parametrize("name", TASKS)
def test_served_answers_are_the_models(name, tmp_path):
    task = load_task(name).TASK.tiny()
    model = task.build_model()
    try:
        signatures = task.signatures(model)
    except ValueError as error:
        pytest.skip(str(error))
    export(task, model, tmp_path)
    function, names = signatures["serving_default"], list(signatures["serving_default"].input_signature or ())
    (spec,) = names
    with running([str(tmp_path)]) as server:
        for address in (server.rest, server.grpc):
            with Client(address, task.name) as client:
                for count in (1, 3, 8):
                    values = [MADE[spec.name](number) for number in range(count)]
                    expected = {key: value.numpy() for key, value in function(tf.constant(values)).items()}
                    found = client.predict({spec.name: values})
                    if set(found) == {"outputs"}:
                        found = dict(zip(expected, found.values()))
                    assert set(found) == set(expected)
                    for key, value in expected.items():
                        if value.dtype == object:
                            assert found[key].tolist() == value.tolist()
                        else:
                            np.testing.assert_allclose(found[key], value, rtol=2e-4, atol=2e-4)
