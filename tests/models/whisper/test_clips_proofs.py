"""tiny.en on recordings in which nobody speaks, and on a prompt as a telephone stores it. Nightly."""

import subprocess

import numpy as np
import pytest

from pipelines.__main__ import load_task
from tfhf import WhisperForConditionalGeneration, transcribe

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def model(whisper_tiny_en):
    return WhisperForConditionalGeneration.from_pretrained(whisper_tiny_en)


@pytest.mark.parametrize("options", [{}, {"no_speech_threshold": 0.1, "logprob_threshold": -0.1},
                                     {"return_timestamps": True}], ids=["plain", "strict", "timestamps"])
def test_faint_noise_gives_no_text(model, options):
    noise = (0.02 * np.random.default_rng(0).uniform(-1, 1, 160000)).astype("float32")
    answer = model.transcribe(noise, **options)
    assert (answer["text"], answer["segments"]) == ("", [])


@pytest.mark.parametrize("name", ["beep", "beeperr", "ascending-2tone", "tt-monkeys"])
def test_no_loop_where_nobody_speaks(model, asterisk_prompts, name):
    """A single word may stand, as by OpenAI's rules: of "beep" they keep "you", whose logarithm is above -1."""
    text = model.transcribe(str(asterisk_prompts / "en" / f"{name}.wav"))["text"]
    print(name, repr(text))
    assert len(text) < 60


def test_an_m4a(whisper_tiny_en, asterisk_prompts, tmp_path, capsys):
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    prompt = asterisk_prompts / "en" / "basic-pbx-ivr-main.wav"
    subprocess.run([ffmpeg, "-v", "error", "-i", prompt, "-c:a", "aac", "-b:a", "64k", tmp_path / "prompt.m4a"],
                   check=True)
    found = []
    for path in (prompt, tmp_path / "prompt.m4a"):
        assert transcribe.main([str(path), "--checkpoint", str(whisper_tiny_en)], load_task) == 0
        found.append(capsys.readouterr().out.strip())
    print(found)
    assert len(found[0]) > 100 and found[0].split()[:5] == found[1].split()[:5]
