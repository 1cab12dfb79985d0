"""The long proofs of CTC on real speech (`make nightly`); each prints its figures."""

import dataclasses
import time

import numpy as np
import pytest

from pipelines.wav2vec2_ctc import RECIPES, TASK
from tfhf import run
from tfhf.data.audio import load_audio
from tfhf.data.records import RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC
from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer
from tfrecords.asterisk import Asterisk

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def trained(assets, tmp_path_factory):
    """The run of a small model that learned 64 training prompts, and the seconds that it took."""
    root = tmp_path_factory.mktemp("ctc")
    prompts = Asterisk(assets("asterisk-prompts"))
    clips = {}
    for split in ("train", "test"):
        items = [{"id": item["id"], "audio": load_audio(item["audio"]), "text": item["text"], "language": "en"}
                 for item in prompts.examples(split)]
        if split == "train":
            items = [item for item in items if 12800 <= len(item["audio"]) <= 64000
                     and any(letter.isalpha() for letter in item["text"])][:64]
        with RecordWriter(root / "records", split, SPEECH_TEXT, writer="proof", options={}, dataset={}) as writer:
            for item in items:
                writer.write(item)
        clips[split] = items
    texts = [item["text"] for items in clips.values() for item in items]
    Wav2Vec2CTCTokenizer.from_corpus(texts).save_pretrained(root / "vocabulary")
    config = RECIPES["tiny_cpu"].override([f"output={root}/run", f"data.path={root}/records",
                                           f"task.vocabulary={root}/vocabulary"])
    begin = time.monotonic()
    run.train(TASK, config)
    return config, time.monotonic() - begin, clips


def test_learns_64_clips_from_nothing(trained):
    config, seconds, _ = trained
    seen = run.evaluate(TASK, config, "train")
    # The test prompts hold clips of up to half a minute, which the training did not have.
    longer = dataclasses.replace(config, task=dataclasses.replace(config.task, max_seconds=15.375))
    unseen = run.evaluate(TASK, longer, "test")
    print(f"\n64 prompts, {config.steps} steps of {config.batch_size}: {seconds:.0f} s; on them CER "
          f"{seen['cer']:.4f}, WER {seen['wer']:.4f}; on {unseen['examples']} unseen ones CER {unseen['cer']:.3f}, WER "
          f"{unseen['wer']:.3f}")
    assert seen["examples"] == 64 and seen["cer"] <= 0.05 and seconds <= 600


def test_padding_changes_no_text(trained):
    """The test prompts one by one in their own length, and all in batches filled up to 246,000 samples."""
    config, _, clips = trained
    task = TASK(dataclasses.replace(config.task, max_seconds=15.375))
    model = run.load_trained(task, config.output)
    items = [item for item in clips["test"] if len(item["audio"]) <= 246_000]
    rows = [_row(item["audio"], 246_000) for item in items]
    padded = [text for start in range(0, len(rows), 10) for text in task.decode(model, {
        name: np.stack([row[name] for row in rows[start:start + 10]]) for name in rows[0]})]
    alone, worst = [], 0.0
    for number, item in enumerate(items):
        inputs = {name: value[None] for name, value in _row(item["audio"], len(item["audio"])).items()}
        logits = model(inputs).numpy()
        alone.append(task.tokenizer.decode(logits[0].argmax(-1)))
        if number < 5:
            both = model({name: np.stack([row[name] for row in rows[:5]]) for name in rows[0]}).numpy()
            worst = max(worst, np.abs(both[number, :logits.shape[1]] - logits[0]).max())
    wer = []
    for texts in (alone, padded):
        metric = task.metrics()[0]
        for item, text in zip(items, texts, strict=True):
            metric.update(item["text"], text)
        wer.append(metric.result()["wer"])
    print(f"\n{len(items)} prompts alone and filled up to 246,000 samples: WER {wer[0]:.4f} and {wer[1]:.4f}; logits "
          f"differ by at most {worst:.1e}")
    assert alone == padded and wer[0] == wer[1] and worst < 1e-3


def _row(audio, length):
    pcm = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("int16")
    return {"input_values": np.pad(pcm, (0, length - len(pcm))), "input_lengths": np.int32(len(pcm))}


@pytest.mark.parametrize("size", ["base-960h", "large-960h-lv60-self"])
def test_a_clip_in_the_published_shape_does_not_see_its_padding(size, assets):
    """Random weights in the published width, four layers of the transformer: one real clip alone, and filled up."""
    model = Wav2Vec2ForCTC(Wav2Vec2Config.of_size(size, num_hidden_layers=4))
    item = next(item for item in Asterisk(assets("asterisk-prompts")).examples("test"))
    audio = load_audio(item["audio"])[:246_000]
    rng = np.random.default_rng(0)
    other = _row(rng.normal(0, 0.1, 200_000).astype("float32"), 246_000)
    alone = model({name: value[None] for name, value in _row(audio, len(audio)).items()}).numpy()[0]
    both = {name: np.stack([_row(audio, 246_000)[name], other[name]]) for name in other}
    padded = model(both).numpy()[0]
    worst = np.abs(padded[:len(alone)] - alone).max()
    print(f"\n{size}: {len(audio)} samples alone and filled up to 246,000 beside another clip: logits differ by "
          f"{worst:.1e} of {np.abs(alone).max():.2f}")
    assert worst < 1e-3 and np.array_equal(padded[:len(alone)].argmax(-1), alone.argmax(-1))
    assert np.all(padded[len(alone):].argmax(-1) == 0)
