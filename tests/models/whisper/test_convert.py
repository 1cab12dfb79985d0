"""tiny.en's real weights from CTranslate2's format: against transformers on real speech, and damaged files."""

import json
import shutil
import struct

import numpy as np
import pytest

from tests.models.whisper.test_model import inputs_for, small_model
from tfhf.data.audio import load_audio
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.convert import write_tiny_checkpoint
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.weights import WeightsError, local_folder, read_ctranslate2


@pytest.fixture(scope="module")
def tiny_en(assets):
    return WhisperForConditionalGeneration.from_pretrained(assets("whisper-tiny.en"))


@pytest.fixture(scope="module")
def clips(assets):
    folder = assets("asterisk-prompts")
    names = ("vm-intro", "conf-waitforleader", "digits/thousand", "pbx-invalid")
    return [load_audio(next(iter(sorted(folder.rglob(f"{name}.wav"))))) for name in names]


def test_logits_and_greedy_ids_on_real_speech_equal_transformers(tiny_en, clips, tmp_path):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    tiny_en.save_pretrained(tmp_path)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    features = transformers.WhisperFeatureExtractor()(clips, sampling_rate=16000, return_tensors="np").input_features
    ids = np.random.default_rng(0).integers(0, 50256, (len(clips), 9)).astype("int32")
    with torch.no_grad():
        expected = theirs(input_features=torch.tensor(features), decoder_input_ids=torch.tensor(ids).long()).logits
        written = theirs.generate(torch.tensor(features), max_new_tokens=48).numpy()
    np.testing.assert_allclose(tiny_en({"input_features": features, "decoder_input_ids": ids}), expected, atol=2e-3)
    ours = tiny_en.generate(features, max_new_tokens=48)
    for mine, other in zip(ours, written):
        assert [t for t in mine if t < 50256] == [t for t in other if t < 50256]


def test_transcribes_real_speech(tiny_en, clips, assets):
    texts = [result["text"] for result in tiny_en.transcribe(clips, batch_size=4)]
    assert "please leave your message after the tone" in texts[0].lower(), texts
    assert "the conference will begin when the leader arrives" in texts[1].lower(), texts
    timed = tiny_en.transcribe(clips[0], return_timestamps=True)
    assert "please leave your message after the tone" in timed["text"].lower()
    ends = [segment["end"] for segment in timed["segments"]]
    assert ends == sorted(ends) and 0 < ends[-1] <= len(clips[0]) / 16000 + 1


def _damaged(assets, tmp_path, change):
    folder = tmp_path / "damaged"
    shutil.copytree(assets("whisper-tiny.en"), folder)
    data = bytearray((folder / "model.bin").read_bytes())
    (folder / "model.bin").write_bytes(change(data))
    return folder


@pytest.mark.parametrize("change, message", [
    (lambda data: data[:len(data) // 2], "ends at byte"),
    (lambda data: data + b"x", "1 bytes follow the end"),
    (lambda data: struct.pack("<I", 7) + data[4:], "version 7; expected 6"),
    (lambda data: data.replace(b"encoder/conv1/bias\0", b"encoder/conv9/bias\0"), "encoder/conv1/bias is missing"),
])
def test_damaged_ctranslate2_files(assets, tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        WhisperForConditionalGeneration.from_pretrained(_damaged(assets, tmp_path, change))


def test_ctranslate2_reader_names_the_kind(assets):
    kind, tensors = read_ctranslate2(assets("whisper-tiny.en") / "model.bin")
    assert kind == "WhisperSpec" and tensors["decoder/embeddings/weight"].shape == (51864, 384)


def test_tiny_checkpoint_is_whole(tmp_path):
    model = WhisperForConditionalGeneration.from_pretrained(write_tiny_checkpoint(tmp_path))
    result = model.transcribe(np.random.default_rng(0).normal(0, 0.1, 9000).astype("float32"))
    assert set(result) == {"text", "language", "segments"}
    assert model.config.max_samples == 16000


def test_changes_at_loading(tmp_path):
    small_model(vocab_size=51865).save_pretrained(tmp_path)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path, dropout=0.25, name="other")
    assert model.config.dropout == 0.25 and model.name == "other"
    assert model(inputs_for(model.config)).shape == (2, 7, 51865)


def test_refused_configs_and_folders(tmp_path):
    good = {"model_type": "whisper", "d_model": 32}
    assert WhisperConfig.from_hugging_face({**good, "torch_dtype": "float16"}, "here").d_model == 32
    with pytest.raises(ValueError, match="activation_function is 'relu'"):
        WhisperConfig.from_hugging_face({**good, "activation_function": "relu"}, "here")
    with pytest.raises(FileNotFoundError, match="no such folder, and not a hub id"):
        local_folder(tmp_path / "nothing", allow_patterns=("*",))
    (tmp_path / "config.json").write_text(json.dumps(good))
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor"):
        WhisperForConditionalGeneration.from_pretrained(tmp_path)
