"""Every task's export: TensorFlow's C API and `tfhf serve`, over REST and gRPC, give the Python model's answers, at
batch 1, 3 and 8 of clips, texts and images that differ in length and size; `saved_model_cli` shows clean signatures."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines.__main__ import load_task, task_names
from tests.server.running import running
from tests.test_export import ask_c_api
from tfhf.causal_lm import CausalLMTask
from tfhf.client import Client, ClientError, wav_bytes
from tfhf.export import export, load_exported
from tfhf.tokenizers.training import train_tokenizer

pytestmark = pytest.mark.nightly
BATCHES = (1, 3, 8)
TEXTS = ["please hold the line", "a", "Good, very good; I liked it.", "é ü ñ", "no", "it was bad " * 3, "…", "x y z"]
PROMPTS = ["the fox", "a", "é ü", "dog", "no", "and dogs", "…", "x y z"]   # at most 16 bytes: tokens, at the worst
NOT_SERVED = {"wav2vec2_pretrain": "pretraining ends in a body to fine-tune, and has no answer that a client could ask "
                                   "for; what is served is wav2vec2_ctc or language_id that began with it"}
TASKS = [name for name in task_names() if name != "quickstart"]


def clip(number):
    rate, random = (16_000, 8_000)[number % 2], np.random.default_rng(number)
    return wav_bytes(random.normal(0, 0.1, round((0.2 + 0.09 * number) * rate)).astype(np.float32), rate)


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (9 + number, 24 - 2 * number, 3), np.uint8)
    return tf.io.encode_png(pixels).numpy() if number % 2 else tf.io.encode_jpeg(pixels).numpy()


HUGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (9000).to_bytes(4, "big") + (20000).to_bytes(4, "big") + b"\x08\2\0\0\0"
MADE = {"wav": clip, "text": lambda number: TEXTS[number].encode(), "prompt": lambda number: PROMPTS[number].encode(),
        "image": picture}


def tiny(name, folder):
    """The task's tiny(); a language model's with a tokenizer, without which no text goes in."""
    task = load_task(name).TASK.tiny()
    if not isinstance(task, CausalLMTask):
        return task
    train_tokenizer(TEXTS, folder / "tokenizer.json", "bpe", 270, special_tokens=("<|endoftext|>",))
    task = type(task)(dataclasses.replace(task.config, tokenizer=str(folder / "tokenizer.json"), max_prompt_tokens=16))
    size = task.tokenizer.vocab_size
    if hasattr(task.config, "model"):
        changes = {"model": dataclasses.replace(task.config.model, vocab_size=size)}
    else:   # the checkpoint has its own
        changes = {"tokenizer": str(Path(task.config.pretrained, "tokenizer.json"))}
    return type(task)(dataclasses.replace(task.config, **changes))


def check_same(found, expected):
    if set(found) == {"outputs"}:   # over REST a sole output goes without its name
        found = dict(zip(expected, found.values()))
    assert set(found) == set(expected)
    for key, value in expected.items():
        if value.dtype == object:
            assert found[key].tolist() == value.tolist()
        else:
            np.testing.assert_allclose(found[key], value, rtol=2e-4, atol=2e-4)


def check_predictions(task, model, files, answer):
    """What the Python road (load_inputs, decode) says of the files is what the exported graph answers."""
    rows = [task.load_inputs(str(file)) for file in files]
    found = task.decode(model, {name: np.stack([row[name] for row in rows]) for name in rows[0]})
    strings = next((answer[name] for name in ("text", "label", "image") if name in answer), None)
    for number, prediction in enumerate(found):
        if isinstance(prediction, str):
            assert strings[number].decode("utf-8", "replace") == str(prediction)
        elif prediction.dtype == np.uint8:
            shown = tf.io.decode_image(strings[number]).numpy().astype(int)
            assert shown.shape == prediction.shape and np.abs(shown - prediction).max() <= 1
        else:
            (floats,) = (value for value in answer.values() if value.dtype == np.float32)
            np.testing.assert_allclose(floats[number], prediction, rtol=1e-3, atol=1e-3)


def check_shown(folder):
    """saved_model_cli: every input and output has a name, a type, a rank, and batches where it has a first axis."""
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir", folder, "--all"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("Concrete Functions")[0]
    blocks = re.split(r"signature_def\['(.+?)'\]:", shown)[1:]
    found = dict(zip(blocks[::2], blocks[1::2]))
    found.pop("__saved_model_init_op", None)
    assert {"serving_default", "raw"} <= set(found)
    for name, block in found.items():
        assert "Method name is: tensorflow/serving/predict" in block and "unknown_rank" not in block
        inputs, outputs = block.split("The given SavedModel SignatureDef contains the following output(s):")
        for side in (inputs, outputs):
            names = re.findall(r"puts\['(.+?)'\] tensor_info", side)
            shapes = re.findall(r"shape: \((.*?)\)", side)
            assert names and not [n for n in names if re.fullmatch(r"(output|input|args)_?\d*", n)], (name, names)
            assert len(shapes) == len(names) and "DT_INVALID" not in side
            # A sample's temperature and seed are one for all.
            assert all(shape.startswith("-1") for shape in shapes if shape or name != "sample"), (name, shapes)


def raw_request(specs, count=3):
    """Named arrays that fit {name: TensorSpec}."""
    random, made = np.random.default_rng(0), {}
    for name, spec in specs.items():
        shape = [count, *(size or 20 for size in spec.shape[1:])]
        made[name] = (random.uniform(size=shape).astype(np.float32) if spec.dtype.is_floating else
                      random.integers(0, 256, shape, np.uint8) if spec.dtype == tf.uint8 else np.ones(shape, np.int32))
    if "input_lengths" in made:
        made["input_lengths"] *= made["input_values"].shape[1]
    return made


@pytest.mark.parametrize("name", TASKS)
def test_c_api_and_served_answers_are_the_models(name, tmp_path):
    if name in NOT_SERVED:
        pytest.skip(NOT_SERVED[name])
    task = tiny(name, tmp_path)
    model = task.build_model()
    folder = Path(export(task, model, tmp_path / "export"))
    description = load_exported(folder).description
    assert description["task"] == task.name and description["labels"] == list(task.classes)
    check_shown(str(folder))
    served = model.serving_model() if hasattr(model, "serving_model") else model
    functions = task.signatures(served)
    function, raw = functions["serving_default"], raw_request(load_exported(folder).signatures["raw"])
    answer = functions["raw"].get_concrete_function()(**{key: tf.constant(value) for key, value in raw.items()})
    heads = {key: value.numpy() for key, value in answer.items()}
    check_same(ask_c_api(folder, "raw", [raw])[0], heads)
    (spec,) = function.input_signature
    values = [MADE[spec.name](number) for number in range(max(BATCHES))]
    files = [tmp_path / f"input-{number}" for number in range(len(values))]
    for file, data in zip(files, values):
        file.write_bytes(data)
    expected = [{key: value.numpy() for key, value in function(tf.constant(values[:count])).items()}
                for count in BATCHES]
    check_predictions(task, model, files, expected[-1])
    requests = [{spec.name: values[:count]} for count in BATCHES]
    for found, want in zip(ask_c_api(folder, "serving_default", requests), expected, strict=True):
        check_same(found, want)
    with running([str(tmp_path / "export")]) as server:
        for address in (server.rest, server.grpc):
            with Client(address, task.name) as client:
                for request, want in zip(requests, expected):
                    check_same(client.predict(request), want)
                check_same(client.predict(raw, "raw"), heads)
                if spec.name == "image":
                    with pytest.raises(ClientError, match=r"an image of at most \d+ pixels, it has 20000 x 9000$"):
                        client.predict({"image": [values[0], HUGE]})
                    check_same(client.predict(requests[0]), expected[0])
