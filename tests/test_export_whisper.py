"""Whisper's export with the real checkpoint: the C++ loader transcribes real prompts as the Python model does."""

import os
import shutil

import numpy as np
import pytest

from pipelines.whisper import TASK
from tests.test_export import ask_c_api
from tfhf.data.audio import load_audio
from tfhf.export import export

COUNT = 50 if os.environ.get("TFHF_NIGHTLY") == "1" else 6
BATCH = 6


@pytest.fixture(scope="module")
def exported(assets, tmp_path_factory):
    """(task, model, clips, folder of the export)."""
    clips = sorted(assets("asterisk-prompts").rglob("*.wav"))
    clips = [path for path in clips if 16000 < path.stat().st_size < 160000]   # 1 to 10 seconds at 8 kHz, 16 bit
    clips = clips[::len(clips) // COUNT][:COUNT]
    task = TASK(TASK.Config(pretrained=str(assets("whisper-tiny.en"))))
    model, folder = task.build_model(), tmp_path_factory.mktemp("whisper")
    yield task, model, clips, export(task, model, folder, files=clips[:2])
    shutil.rmtree(folder)   # 150 MB


def test_the_same_texts_character_for_character(exported):
    task, model, clips, folder = exported
    batches = [clips[begin:begin + BATCH] for begin in range(0, len(clips), BATCH)]
    answers = ask_c_api(folder, "serving_default", [{"wav": [path.read_bytes() for path in batch]}
                                                    for batch in batches])
    spoken = 0
    for batch, answer in zip(batches, answers, strict=True):
        inputs = {"input_values": np.stack([task.load_inputs(str(path))["input_values"] for path in batch])}
        texts = task.decode(model, inputs)
        assert [text.decode("utf-8") for text in answer["text"]] == texts
        spoken += sum(len(text) > 8 for text in texts)
    assert spoken > COUNT / 2   # some prompts are a beep or a letter


def test_features_give_the_ids_of_generate(exported):
    task, model, clips, folder = exported
    features = task.processor(audio=[load_audio(path) for path in clips[:2]], sampling_rate=16000)["input_features"]
    answer, = ask_c_api(folder, "raw", [{"input_features": np.asarray(features, "float32")}])
    ids = np.asarray(model.generate(features, language="en", max_new_tokens=task.config.max_new_tokens))
    expected, got = (task.processor.batch_decode(rows, skip_special_tokens=True) for rows in (ids, answer["ids"]))
    assert got == expected and any(len(text) > 8 for text in got)
