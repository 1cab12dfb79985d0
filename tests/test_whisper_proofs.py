"""The long proofs on the real checkpoint and the real recordings (`make nightly`); each prints its figures."""

import json

import jiwer
import numpy as np
import pytest

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
