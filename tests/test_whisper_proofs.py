"""The long proofs on the real checkpoint and the real recordings (`make nightly`); each prints its figures."""

import json
import os
import signal
import subprocess
import sys
import time

import jiwer
import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines.whisper import RECIPES, TASK
from tfhf import run
from tfhf.config import Config
from tfhf.data.audio import load_audio
from tfhf.data.records import RecordWriter
from tfhf.data.schema import SPEECH_TEXT
from tfhf.metrics.normalizers import get_normalizer
from tfhf.metrics.word_errors import WordErrorRate
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.models.whisper.subtitles import to_srt
from tfrecords.asterisk import Asterisk

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def prompts(assets):
    return Asterisk(assets("asterisk-prompts"))


@pytest.fixture(scope="module")
def tiny_en(assets):
    return WhisperForConditionalGeneration.from_pretrained(assets("whisper-tiny.en"))


@pytest.fixture(scope="module")
def theirs(tiny_en, tmp_path_factory):
    pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    folder = tmp_path_factory.mktemp("hugging-face")
    tiny_en.save_pretrained(folder)
    return transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()


def _wer(references, predictions):
    metric = WordErrorRate("whisper-english")
    for pair in zip(references, predictions):
        metric.update(*pair)
    return metric.result()


def test_tokens_and_wer_equal_transformers_on_the_test_prompts(prompts, tiny_en, theirs, assets):
    import torch
    import transformers

    from tfhf.models.whisper.processor import WhisperProcessor

    items = list(prompts.examples("test"))
    clips = [load_audio(item["audio"]) for item in items]
    features = transformers.WhisperFeatureExtractor()(clips, sampling_rate=16000, return_tensors="np").input_features
    mel = WhisperProcessor.from_pretrained(assets("whisper-tiny.en")).feature_extractor(clips)
    print(f"\nlog-mel: max difference {np.abs(mel - features).max():.1e} over {len(clips)} clips")
    assert np.abs(mel - features).max() < 1e-4
    ours = np.concatenate([tiny_en.generate(mel[i:i + 10], max_new_tokens=128) for i in range(0, 50, 10)])
    with torch.no_grad():
        other = [row for i in range(0, 50, 10)
                 for row in theirs.generate(torch.tensor(features[i:i + 10]), max_new_tokens=128).numpy()]
    decode = WhisperProcessor.from_pretrained(assets("whisper-tiny.en")).tokenizer.decode
    equal = sum([t for t in a if t < 50256] == [t for t in b if t < 50256] for a, b in zip(ours, other))
    references = [item["text"] for item in items]
    mine, reference = (_wer(references, [decode(row) for row in rows]) for rows in (ours, other))
    print(f"greedy ids equal in {equal} of 50; WER ours {mine['wer']:.4f}, transformers {reference['wer']:.4f}: {mine}")
    assert equal == 50 and mine == reference and mine["wer"] <= 0.08


def _joined(prompts):
    """The spoken test prompts, in order, with half a second between them: about three minutes."""
    basic = get_normalizer("basic")
    items = [item for item in prompts.examples("test") if any(c.isalpha() for c in basic(item["text"]))]
    gap = np.zeros(8000, "float32")
    return np.concatenate([part for item in items for part in (load_audio(item["audio"]), gap)]), " ".join(
        item["text"] for item in items)


def test_long_form_is_no_worse_than_transformers(prompts, tiny_en, theirs):
    import torch
    import transformers

    from tfhf.models.whisper.processor import WhisperProcessor

    audio, reference = _joined(prompts)
    result = tiny_en.transcribe(audio)
    features = transformers.WhisperFeatureExtractor()(
        audio, sampling_rate=16000, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True)
    with torch.no_grad():
        ids = theirs.generate(**features, return_timestamps=True, condition_on_prev_tokens=True,
                              temperature=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), compression_ratio_threshold=2.4,
                              logprob_threshold=-1.0, no_speech_threshold=0.6).numpy()[0]
    decode = WhisperProcessor.from_pretrained(tiny_en.pretrained_folder).tokenizer.decode
    mine, other = _wer([reference], [result["text"]]), _wer([reference], [decode(ids)])
    print(f"\n{len(audio) / 16000:.0f} s: WER ours {mine['wer']:.4f}, transformers {other['wer']:.4f}; "
          f"{len(result['segments'])} segments")
    starts = [segment["start"] for segment in result["segments"]]
    assert starts == sorted(starts) and all(s["end"] > s["start"] for s in result["segments"])
    assert result["segments"][-1]["end"] <= len(audio) / 16000 + 0.1
    assert to_srt(result["segments"]).count(" --> ") == len(result["segments"])
    assert mine["wer"] <= other["wer"]


def _write(folder, split, items):
    with RecordWriter(folder, split, SPEECH_TEXT, writer="proof", options={}, dataset={}) as writer:
        for item in items:
            writer.write({"id": item["id"], "audio": load_audio(item["audio"]), "text": item["text"],
                          "language": "en"})


def test_fine_tuning_learns_a_consistent_change(prompts, assets, tmp_path):
    """64 prompts in which every "please" is written "kindly": held-out prompts are written so too."""
    def changed(item):
        text = item["text"].replace("please", "kindly").replace("Please", "Kindly")
        return {**item, "text": text}

    fit = [item for item in prompts.examples("train") if len(load_audio(item["audio"])) <= 480000]
    polite = [item for item in fit if "please" in item["text"].lower()]
    others = [item for item in fit if "please" not in item["text"].lower() and len(item["text"].split()) > 3]
    held_out = [item for split in ("validation", "test") for item in prompts.examples(split)
                if "please" in item["text"].lower()]
    _write(tmp_path / "records", "train", [changed(item) for item in (polite + others)[:64]])
    _write(tmp_path / "records", "test", [changed(item) for item in held_out])
    config: Config = RECIPES["quickstart"].override([
        f"output={tmp_path}/run", f"data.path={tmp_path}/records", f"task.pretrained={assets('whisper-tiny.en')}",
        "steps=64", "checkpoint_every=64", "optimizer.learning_rate=5e-5"])
    run.train(TASK, config)
    run.evaluate(TASK, config, "test")
    lines = (next((tmp_path / "run" / "evaluation").glob("test-step-*")) / "predictions.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    kindly = sum("kindly" in line["prediction"].lower() and "please" not in line["prediction"].lower()
                 for line in written)
    print(f"\n'kindly' for 'please' in {kindly} of {len(written)} held-out prompts; "
          f"WER {jiwer.wer([w['reference'] for w in written], [w['prediction'] for w in written]):.3f}")
    assert kindly >= 0.9 * len(written)


@pytest.fixture(scope="module")
def train(prompts, assets, tmp_path_factory):
    """Function (folder name, *overrides) -> (running process, output folder) of `tfhf train` on tiny.en, in batches of
    8 clips of at most 10 s, in full: no part of the model frozen."""
    root = tmp_path_factory.mktemp("train")
    short = [item for item in prompts.examples("train") if len(load_audio(item["audio"])) <= 80000]
    _write(root / "records", "train", short[:96])

    def start(name, *overrides):
        command = [sys.executable, "-m", "pipelines", "train", "whisper", "--recipe", "quickstart",
                   "--output", str(root / name), "--data", str(root / "records"),
                   f"task.pretrained={assets('whisper-tiny.en')}", "batch_size=8", "eval_batch_size=8", "log_every=1",
                   "freeze=[]", "task.max_seconds=[30.0]", "task.max_label_tokens=[32]", *overrides]
        log = open(root / f"{name}.log", "w")
        return subprocess.Popen(command, stdout=log, stderr=log), root / name

    return start


def _history(folder):
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _weights(folder, step):
    return load_file(folder / f"checkpoints/step-{step:08d}/weights.safetensors")


def test_eight_replicas_train_as_one_device(train):
    folders = []
    for name, strategy in (("one", "none"), ("eight", "cpu:8")):
        process, folder = train(name, "steps=20", "checkpoint_every=20", f"strategy={strategy}")
        assert process.wait() == 0, (folder.parent / f"{name}.log").read_text()[-3000:]
        folders.append(folder)
    losses = [np.array([row["loss"] for row in _history(folder)]) for folder in folders]
    one, eight = (_weights(folder, 20) for folder in folders)
    curve = np.max(np.abs(losses[1] / losses[0] - 1))
    worst = max(np.linalg.norm(eight[name] - one[name]) / max(np.linalg.norm(one[name]), 1e-30) for name in one)
    print(f"\ncpu:8 and one device, tiny.en, {len(losses[0])} steps: loss within {curve:.1e}, weights within "
          f"{worst:.1e}, relative; loss {losses[0][0]:.3f} -> {losses[0][-1]:.3f}")
    assert len(losses[0]) == len(losses[1]) == 20 and one.keys() == eight.keys()
    assert curve < 1e-4 and worst < 1e-4


def test_killed_with_sigkill_and_run_again(train):
    process, whole = train("whole", "steps=16", "checkpoint_every=4")
    assert process.wait() == 0
    process, killed = train("killed", "steps=16", "checkpoint_every=4")
    while process.poll() is None and len(_history(killed)) < 7:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = _history(killed)[-1]["step"]
    process, _ = train("killed", "steps=16", "checkpoint_every=4")
    assert process.wait() == 0
    again, expected = _history(killed), _history(whole)
    different = max(abs(a["loss"] - b["loss"]) for a, b in zip(again, expected, strict=True))
    print(f"\nkilled at step {before}, run again: {len(again)} losses, largest difference {different:.1e}")
    assert 7 <= before < 16 and different == 0.0
    for name, value in _weights(whole, 16).items():
        np.testing.assert_array_equal(_weights(killed, 16)[name], value)
