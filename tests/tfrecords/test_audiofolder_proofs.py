"""The classic run on a folder as Common Voice 17 ships it: records, train, evaluate and export, with a tiny Whisper.

The clips are encoded as Common Voice's server does it, through pipes, so that no MP3 has a Xing frame. One is missing,
one is empty, one row has a bare quotation mark. Its speech is eSpeak NG's; needs an ffmpeg program.
"""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

import pipelines.__main__ as command
from tfhf.data.audio import load_audio
from tfhf.data.records import RecordReader, read_manifest
from tfhf.data.schema import SPEECH_TEXT
from tfrecords.espeak import _library

HEADER = ("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age", "gender",
          "accents", "variant", "locale", "segment")
SENTENCES = ("यह एक परीक्षा है।", "मुझे पानी चाहिए।", '"वह घर जा रहा है।', "आज मौसम अच्छा है।", "हम कल मिलेंगे।",
             "किताब मेज़ पर है।", "दरवाज़ा खोलो।", "बच्चे खेल रहे हैं।", "यह क्या है?", "धन्यवाद।", "नमस्ते दोस्तों!",
             "मेरा नाम राम है।")
SPLITS = {"train": range(8), "dev": range(8, 10), "test": range(10, 12)}
MISSING, EMPTY = 3, 5


@pytest.fixture(scope="module")
def ffmpeg():
    """Path of an ffmpeg program: the machine's own, or the package imageio-ffmpeg's."""
    found = shutil.which("ffmpeg")
    if found is None:
        found = pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg on this machine").get_ffmpeg_exe()
    return found


def encoded(ffmpeg, wav):
    """A WAV file's bytes -> an MP3 as Common Voice's server pipes it."""
    quiet = [ffmpeg, "-loglevel", "error", "-i", "pipe:0"]
    piped = subprocess.run([*quiet, "-f", "wav", "-"], input=wav, capture_output=True, check=True).stdout
    to_mp3 = ["-acodec", "mp3", "-ac", "1", "-ar", "32000", "-f", "mp3", "pipe:1"]
    return subprocess.run([*quiet, *to_mp3], input=piped, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def corpus(assets, ffmpeg, tmp_path_factory):
    """-> (cv-corpus/hi, the clips' speech as WAV files by number)"""
    folder = tmp_path_factory.mktemp("cv-corpus-17.0") / "hi"
    (folder / "clips").mkdir(parents=True)
    library, spoken = _library(str(assets("espeak-ng"))), {}
    for number, sentence in enumerate(SENTENCES):
        spoken[number] = folder.parent / f"{number}.wav"
        spoken[number].write_bytes(library.speak(sentence, "hi"))
        path = folder / "clips" / f"common_voice_hi_{number}.mp3"
        if number == EMPTY:
            path.write_bytes(b"")
        elif number != MISSING:
            path.write_bytes(encoded(ffmpeg, spoken[number].read_bytes()))
            assert b"Xing" not in path.read_bytes() and b"Info" not in path.read_bytes()
    for split, numbers in {**SPLITS, "other": (), "invalidated": (), "validated": range(12)}.items():
        rows = [("c" * 64, f"common_voice_hi_{number}.mp3", "s" * 64, SENTENCES[number], "", "2", "0", "twenties",
                 "male_masculine", "", "", "hi", "") for number in numbers]
        lines = ["\t".join(row) + "\n" for row in (HEADER, *rows)]
        (folder / f"{split}.tsv").write_text("".join(lines), "utf-8")
    (folder / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_hi_0.mp3\t2000\n")
    (folder / "validated_sentences.tsv").write_text("sentence_id\tsentence\n")
    return folder, spoken


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random Whisper of the published window, positions, vocabulary and languages, and of 32 channels."""
    from tfhf.models.whisper.config import WhisperConfig
    from tfhf.models.whisper.model import WhisperForConditionalGeneration
    from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
    from tfhf.models.whisper.tokenizer import WhisperTokenizer, tiny_tokenizer_json

    folder = tmp_path_factory.mktemp("whisper")
    config = WhisperConfig(
        vocab_size=51865, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64, max_source_positions=1500,
        max_target_positions=448, eos_token_id=50257, pad_token_id=50257, bos_token_id=50257,
        decoder_start_token_id=50258)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer_json(folder / "tokenizer.json", num_languages=99, end=50257)
    # The tokens that it never writes get names of two byte-level letters each, as an export's decoder expects.
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    names = {number: name for name, number in content["model"]["vocab"].items()}
    content["model"]["vocab"] = {name if number < 256 else names[number // 256] + names[number % 256]: number
                                 for number, name in names.items()}
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    tokenizer = WhisperTokenizer(folder / "tokenizer.json")
    WhisperProcessor(WhisperFeatureExtractor(80, config.max_samples), tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.nightly
def test_common_voice_from_its_folder_to_an_export(corpus, checkpoint, tmp_path, capsys):
    folder, spoken = corpus
    records = ["records", "audiofolder", "--folder", str(folder), "--out", str(tmp_path / "records")]
    assert command.main([*records, "--licence", "CC0-1.0"]) == 1
    assert "train.tsv, row 4: no sound 'common_voice_hi_3.mp3'" in capsys.readouterr().err
    assert command.main([*records, "--licence", "CC0-1.0", "--skip-bad", "2"]) == 0
    train = tmp_path / "records" / "train"
    listed = [json.loads(line) for line in (train / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert [line["id"] for line in listed] == ["common_voice_hi_3", "common_voice_hi_5"]
    assert "train.tsv, row 4" in listed[0]["source"] and "the file is empty" in listed[1]["reason"]
    with RecordReader(train, SPEECH_TEXT) as reader:
        assert len(reader) == 6 and read_manifest(train)["dataset"]["licence"] == "CC0-1.0"
        for number in range(6):
            one = {key: value.numpy() for key, value in SPEECH_TEXT.decode(reader.read(number)).items()}
            clip = int(one["id"].decode().rpartition("_")[2])
            assert one["text"].decode() == SENTENCES[clip] and one["language"] == b"hi"
            whole = load_audio(str(spoken[clip]))
            # An MP3 has up to three frames of 1,152 samples more than what was encoded, and none less.
            assert -320 <= len(one["audio"]) - len(whole) <= 3 * 1152 / 2
            assert np.abs(one["audio"]).max() > 0.5 * np.abs(whole).max()
    run = ["--recipe", "hindi_small", "--data", str(tmp_path / "records"), "--output", str(tmp_path / "run"),
           f"task.pretrained={checkpoint}", "task.max_new_tokens=16", "steps_per_execution=1", "steps=4",
           "batch_size=4", "eval_batch_size=2", "log_every=1", "evaluate_every=4", "checkpoint_every=2",
           "precision=float32", "jit_compile=false", "optimizer.warmup_steps=1"]
    assert not command.main(["train", "whisper", *run])
    assert not command.main(["evaluate", "whisper", *run, "--split", "test"])
    metrics = json.loads((tmp_path / "run/evaluation/test-step-00000004/metrics.json").read_text())
    assert metrics["metrics"]["examples"] == 2
    clip = tmp_path / "clip.wav"
    samples, rate_hz = soundfile.read(spoken[0])
    soundfile.write(clip, samples, rate_hz)
    assert not command.main(["export", "whisper", str(clip), *run])
    assert [name for name in os.listdir(tmp_path / "run/export")]
