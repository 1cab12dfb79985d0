"""The wav2vec2 CTC task through the house: every check of the harness, its export, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from pipelines.wav2vec2_ctc import RECIPES, TASK, Wav2Vec2CTCConfig
from tests import harness
from tfhf import export, run
from tfhf.checkpoints import CheckpointError
from tfhf.data.audio import tone_wav
from tfhf.data.records import RecordError, RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tfhf.task import TaskError
from tfhf.tokenizers.ctc_decoder import CTCDecoderConfig

ARPA = """\\data\\
ngram 1=5

\\1-grams:
-1.0 <unk>
-99 <s>
-1.0 </s>
-1.0 hold
-1.0 the

\\end\\
"""


def _examples(count=16):
    rng = np.random.default_rng(0)
    words = "please hold the line".split()
    return [{"id": f"clip-{i}", "audio": rng.normal(0, 0.1, 12000 + 200 * i).astype("float32"),
             "text": " ".join(rng.choice(words, 2)), "language": "en"} for i in range(count)]


def _pad(inputs):
    """Another second of noise behind every clip: what stands there must not matter."""
    noise = np.random.default_rng(1).integers(-9000, 9000, (len(inputs["input_values"]), 16000)).astype("int16")
    return {**inputs, "input_values": np.concatenate([inputs["input_values"], noise], axis=1)}


def test_harness(tmp_path):
    harness.check_task(TASK, _examples(), tmp_path)


def test_texts_do_not_see_the_padding():
    task = TASK.tiny()
    model = task.build_model()
    inputs, _, _ = harness.batch_of(task, _examples())
    inputs = {name: value.numpy() for name, value in inputs.items()}
    assert task.decode(model, inputs) == task.decode(model, _pad(inputs))


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


@pytest.mark.parametrize("with_language_model", [False, True])
def test_exports_words_with_times(with_language_model, tmp_path):
    (tmp_path / "clip.wav").write_bytes(tone_wav(0.7, 8000))
    task = TASK.tiny()
    if with_language_model:
        (tmp_path / "lm.arpa").write_text(ARPA)
        decoder = CTCDecoderConfig(num_beams=4, language_model=str(tmp_path / "lm.arpa"), hot_words=("line",))
        task = TASK(dataclasses.replace(task.config, decoder=decoder))
    folder = export.export(task, task.build_model(), str(tmp_path / "out"), files=[tmp_path / "clip.wav"])
    answer = export.load_exported(folder)(wav=[tone_wav(0.7, 8000), tone_wav(0.3)])
    assert set(answer) == {"text", "words", "word_starts", "word_ends"} and len(answer["text"]) == 2
    for text, words in zip(answer["text"], answer["words"], strict=True):
        assert text.split() == [word for word in words if word]


def _run(tmp_path, examples, **task):
    with RecordWriter(tmp_path / "records", "train", SPEECH_TEXT, writer="test", options={}, dataset={}) as writer:
        for example in examples:
            writer.write(example)
    config = RECIPES["tiny_cpu"].override([f"output={tmp_path}/run", f"data.path={tmp_path}/records", "steps=4",
                                           "checkpoint_every=4", "optimizer.warmup_steps=0"])
    return dataclasses.replace(config, task=dataclasses.replace(TASK.tiny().config, **task))


def test_the_second_stage_begins_with_the_first(tmp_path):
    first = dataclasses.replace(_run(tmp_path, _examples()), freeze=("wav2vec2/",))
    run.train(TASK, first)
    task = TASK(dataclasses.replace(first.task, start_from=first.output))
    found, trained = (model.get_weights() for model in (task.build_model(), run.load_trained(task, first.output)))
    for a, b in zip(found, trained, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(CheckpointError, match="nowhere holds no whole checkpoint"):
        TASK(dataclasses.replace(first.task, start_from=str(tmp_path / "nowhere"))).build_model()


@pytest.mark.parametrize("harm, words", [
    (dict(text="9 lives"), "clip-3: '9 lives' has '9', 'v', which the vocabulary of .* symbols lacks"),
    (dict(text="hold the line " * 9), "clip-3: 'hold the line .*has 125 symbols; expected at most 32"),
    (dict(audio=np.zeros(480, "float32")),
     "clip-3: .* symbols, for which CTC needs .* but the clip of 0.03 s has 3; .*task.zero_infinity=true"),
])
def test_a_transcript_that_does_not_fit(harm, words, tmp_path):
    examples = _examples()
    examples[3].update(harm)
    with pytest.raises(RecordError, match=words):
        run.train(TASK, _run(tmp_path, examples))


def test_scratch_needs_a_vocabulary():
    with pytest.raises(TaskError, match="task.vocabulary: got None"):
        TASK(Wav2Vec2CTCConfig("scratch"))
