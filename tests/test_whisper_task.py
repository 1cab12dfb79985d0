"""The Whisper task through the house: every check of the harness, bad transcripts, and its signatures."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import pipelines.__main__ as command
from pipelines.whisper import RECIPES, TASK
from tfhf import run
from tfhf.data.records import RecordError, RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
from tfhf.models.whisper.tokenizer import WhisperTokenizer, tiny_tokenizer_json
from tests import harness


def _examples(count=16):
    rng = np.random.default_rng(0)
    words = "please hold the line".split()
    return [{"id": f"clip-{i}", "audio": rng.normal(0, 0.1, 4000 + 500 * i).astype("float32"),
             "text": " ".join(rng.choice(words, 2)), "language": "en"} for i in range(count)]


def test_harness(tmp_path):
    harness.check_task(TASK, _examples(), tmp_path)


def test_jax_backend_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    harness.check_jax_backend(TASK, _examples(), tmp_path)


def test_a_transcript_that_is_too_long_names_its_clip(tmp_path):
    examples = _examples()
    examples[3]["text"] = "hold the line " * 20
    with RecordWriter(tmp_path / "records", "train", SPEECH_TEXT, writer="test", options={}, dataset={}) as writer:
        for example in examples:
            writer.write(example)
    config = RECIPES["default"].override([f"output={tmp_path}/run", f"data.path={tmp_path}/records", "steps=2",
                                          "batch_size=16", "optimizer.warmup_steps=0", "evaluate_every=0"])
    config = dataclasses.replace(config, task=TASK.tiny().config)
    with pytest.raises(RecordError, match="^clip-3: ' hold the line.*' has .* tokens.*expected at most 33.$"):
        run.train(TASK, config)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """Folder of a random multilingual checkpoint of 1 s windows."""
    folder = tmp_path_factory.mktemp("multilingual")
    config = WhisperConfig(vocab_size=51872, d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8,
                           decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, max_source_positions=50)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer_json(folder / "tokenizer.json", num_languages=99, end=50257)
    WhisperProcessor(WhisperFeatureExtractor(80, config.max_samples),
                     WhisperTokenizer(folder / "tokenizer.json")).save_pretrained(folder)
    return str(folder)


def _spoken(task, *languages):
    """The language tokens of a batch of records in these languages, through tf.data, and its inputs."""
    examples = [{**example, "language": language} for example, language in zip(_examples(), languages)]
    serialized = tf.data.Dataset.from_tensor_slices([task.record_type.encode(example) for example in examples])
    batch = next(iter(serialized.map(lambda one: task.preprocess(task.record_type.decode(one), task.buckets[0], True))
                      .batch(len(examples))))
    special, inputs = task.processor.tokenizer.special, batch[0]
    return [special.languages[number - special.first_language] for number in inputs["decoder_input_ids"][:, 1]], inputs


def test_labels_and_answers_are_in_the_records_languages(multilingual, capsys):
    task = TASK(TASK.Config(multilingual, max_label_tokens=(32,), max_new_tokens=2))
    spoken, inputs = _spoken(task, "hi", "ta-IN", "zh-CN", "nb_NO")
    assert spoken == ["hi", "ta", "zh", "no"] and not capsys.readouterr().err
    asked = []

    class Model:
        def generate(self, audio, language, task, decoder_input_ids=None, **options):
            asked.append((language, task, None if decoder_input_ids is None else np.array(decoder_input_ids).tolist()))
            return np.zeros((4, 1), "int32")

    task.decode(Model(), inputs)
    task.decode(Model(), {"input_values": inputs["input_values"]})   # files, of which nothing is known
    forced = TASK(TASK.Config(multilingual, language="pt-BR", task="translate", max_label_tokens=(32,)))
    assert _spoken(forced, "hi", "pt")[0] == ["pt", "pt"]
    assert "task.language=pt: labels begin with <|pt|>" in capsys.readouterr().err
    forced.decode(Model(), inputs)
    special = task.processor.tokenizer.special
    prompts = [special.prefix(code, "transcribe", timestamps=False) for code in ("hi", "ta", "zh", "no")]
    assert asked == [(None, "transcribe", [list(prompt) for prompt in prompts]), (None, "transcribe", None),
                     ("pt", "translate", None)]


@pytest.mark.parametrize("given, words", [
    ("task.language=xx", "error: task.language=xx, task.task=transcribe: Unknown language 'xx'"),
    ("task.language=yue", "Unknown language 'yue'"),
    ("task.task=sing", "Unknown task 'sing'")])
def test_a_wrong_language_is_one_line_before_anything_is_read(multilingual, tmp_path, capsys, given, words):
    assert command.main(["train", "whisper", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run"),
                         f"task.pretrained={multilingual}", given]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and words in line


def test_a_record_of_another_language_is_named(tmp_path):
    examples = _examples()
    examples[3]["language"] = "hi"
    with RecordWriter(tmp_path / "records", "train", SPEECH_TEXT, writer="test", options={}, dataset={}) as writer:
        for example in examples:
            writer.write(example)
    config = RECIPES["default"].override([f"output={tmp_path}/run", f"data.path={tmp_path}/records", "steps=2",
                                          "batch_size=16", "optimizer.warmup_steps=0", "evaluate_every=0"])
    with pytest.raises(RecordError, match="^clip-3: the record says 'hi', but the model is English-only"):
        run.train(TASK, dataclasses.replace(config, task=TASK.tiny().config))
