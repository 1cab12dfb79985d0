"""Long-form transcription with a scripted model: windows, prompts, fallback, silence, order; and subtitles."""

import re

import numpy as np
import pytest

from tfhf.layers.log_mel import LogMelSpectrogram
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.long_form import LongFormOptions, _features, transcribe
from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
from tfhf.models.whisper.special_tokens import SpecialTokens
from tfhf.models.whisper.subtitles import to_srt, to_vtt
from tfhf.models.whisper.tokenizer import WhisperTokenizer, tiny_tokenizer_json

# 30 s windows, as published, over the 256 byte tokens.
CONFIG = WhisperConfig(vocab_size=1767, eos_token_id=256, decoder_start_token_id=257, max_target_positions=64)
FIRST = SpecialTokens.of(CONFIG).first_timestamp


def at(seconds):
    return FIRST + round(seconds / 0.02)


class Script:
    """Answers windows from a list, one answer for each file's next window, and remembers how it was asked."""

    def __init__(self, answers, sums=None, no_speech=0.0):
        self.config, self.special_tokens, self.log_mel = CONFIG, SpecialTokens.of(CONFIG), LogMelSpectrogram(80)
        self.answers, self.sums, self.no_speech, self.asked = list(answers), sums, no_speech, []

    def generate_with_scores(self, features, prompts, lengths=None, max_new_tokens=0, temperature=0.0, **options):
        self.asked.append(dict(features=features, prompts=np.asarray(prompts), lengths=lengths,
                               temperature=temperature, limit=max_new_tokens, **options))
        batch = len(prompts)
        rows = self.answers.pop(0)
        rows = rows + [rows[-1]] * (batch - len(rows))
        sequences = np.full((batch, max_new_tokens), 256, "int32")
        for row, tokens in enumerate(rows):
            sequences[row, :len(tokens)] = tokens
        sums = self.sums.pop(0) if self.sums else [-0.1] * batch
        return {"sequences": sequences, "lengths": np.array([len(tokens) for tokens in rows]),
                "sum_logprobs": np.array(sums, "float32"), "no_speech_prob": np.full(batch, self.no_speech)}


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tokenizer.json"
    tiny_tokenizer_json(path)
    return WhisperProcessor(WhisperFeatureExtractor(), WhisperTokenizer(path))


def words(text):
    return list(text.encode())


def noise(seconds):
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * 16000)).astype("float32")


def test_windows_advance_by_the_predicted_timestamps(processor):
    model = Script([
        [[at(0), *words(" one"), at(4), at(4), *words(" two"), at(9.5), at(9.5)]],  # heard again from 9.5 s
        [[at(0), *words(" three"), at(30)]],  # 9.5 to 39.5
        [[at(0.5), *words(" four"), at(1)]],  # 39.5 to the end
    ])
    result = transcribe(model, processor, noise(41))
    assert result["text"] == "one two three four" and result["language"] == "en"
    assert [(s["id"], s["start"], s["end"], s["text"]) for s in result["segments"]] == [
        (0, 0.0, 4.0, "one"), (1, 4.0, 9.5, "two"), (2, 9.5, 39.5, "three"), (3, 40.0, 40.5, "four")]
    whole, _ = _features(model, noise(41))
    for asked, seek in zip(model.asked, (0, 950, 3950)):
        np.testing.assert_array_equal(asked["features"][0], whole[seek:seek + 3000].T)
        assert asked["timestamps"] and asked["prefix_length"] == 1


def test_the_text_before_is_the_prompt_on_the_left_of_the_start(processor):
    model = Script([[[at(0), *words(" ab"), at(30)]], [[at(0), *words(" c"), at(5)]]])
    transcribe(model, processor, noise(35))
    special = model.special_tokens
    first, second = model.asked
    assert first["prompts"].tolist() == [[special.start]] and first["lengths"].tolist() == [1]
    prompt = [special.start_of_previous, at(0), *words(" ab"), at(30), special.start]
    assert second["prompts"].shape == (1, 33) and second["lengths"].tolist() == [len(prompt)]
    assert second["prompts"][0, -len(prompt):].tolist() == prompt and second["prompts"][0, 0] == special.end
    model = Script([[[at(0), *words(" ab"), at(30)]], [[at(0), *words(" c"), at(5)]]])
    transcribe(model, processor, noise(35), condition_on_previous_text=False)
    assert model.asked[1]["prompts"].tolist() == [[special.start]]


def test_a_poor_window_is_tried_again_hotter_and_then_leaves_no_prompt(processor):
    loop = [at(0), *words("aaaaaaaaaaaaaaaaaaaaaaaaaaaa"), at(30)]
    good = [at(0), *words(" good"), at(30)]
    model = Script([[loop], [good], [good]], sums=[[-1.0], [-50.0], [-0.5]] + [[-0.1]])
    result = transcribe(model, processor, noise(29), return_timestamps=True)
    assert [asked["temperature"] for asked in model.asked] == [0.0, 0.2, 0.4]
    assert result["text"] == "good" and result["segments"][0]["temperature"] == 0.4
    model = Script([[loop]] * 4 + [[good]] * 2, sums=None)
    result = transcribe(model, processor, noise(45), temperatures=(0.0, 0.2, 0.4, 0.6))
    assert [asked["temperature"] for asked in model.asked] == [0.0, 0.2, 0.4, 0.6, 0.0]
    assert model.asked[-1]["prompts"].tolist() == [[257]]  # hotter than 0.5: not to be believed as a prompt


def test_silence_is_passed_over_without_fallback(processor):
    model = Script([[[at(0), *words(" thanks"), at(2)]]] * 2, sums=[[-90.0]] * 2, no_speech=0.9)
    assert transcribe(model, processor, noise(40))["segments"] == []
    assert len(model.asked) == 2 and {asked["temperature"] for asked in model.asked} == {0.0}


def test_files_go_side_by_side_each_at_its_own_place(processor):
    model = Script([
        [[at(0), *words(" a1"), at(30)], [at(0), *words(" b1"), at(10), at(10)], [at(0), *words(" c1"), at(30)]],
        [[at(0), *words(" a2"), at(5)], [at(0), *words(" b2"), at(21)], [at(0), *words(" c2"), at(5)]],
    ])
    results = transcribe(model, processor, [noise(35), noise(31), noise(36)], batch_size=4)
    assert [result["text"] for result in results] == ["a1 a2", "b1 b2", "c1 c2"]
    assert results[1]["segments"][1]["start"] == 10.0
    assert {asked["prompts"].shape[0] for asked in model.asked} == {3}  # one shape


def test_an_answer_that_stands_still_ends(processor):
    """A pair of timestamps at 0.00 must not be decoded for ever; nor may a window without any timestamp."""
    model = Script([[[at(0), at(0)]], [words("no times")]])
    result = transcribe(model, processor, noise(40))
    assert [s["text"] for s in result["segments"]] == ["no times"]


def test_short_clips_are_decoded_plainly_in_batches(processor):
    model = Script([[words(" x"), words(" y")], [words(" z")]])
    results = transcribe(model, processor, [noise(1), noise(2), noise(3)], batch_size=2)
    assert [result["text"] for result in results] == ["x", "y", "z"]
    assert results[2]["segments"][0]["end"] == 3.0
    assert model.asked[0]["prompts"].tolist() == [[257, processor.tokenizer.special.no_timestamps]] * 2


def _scores(*sums):
    """Sums of log-probabilities by which the windows of a batch are judged."""
    return [list(row) for row in sums]


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("seconds", [0.3, 10, 30])
def test_a_short_clip_in_which_nothing_is_said(processor, seconds, timestamps):
    answer = [at(0), *words(" you"), at(0.2)] if timestamps else words(" you")
    model = Script([[answer]], sums=_scores([-90.0]), no_speech=0.86)
    result = transcribe(model, processor, noise(seconds), return_timestamps=timestamps)
    assert (result["text"], result["segments"], result["language"]) == ("", [], "en")
    assert [asked["temperature"] for asked in model.asked] == [0.0]


def test_the_thresholds_are_the_callers(processor):
    def answer(**options):
        model = Script([[words(" you")]] * 6, sums=_scores([-6.0]) * 6, no_speech=0.5)
        result = transcribe(model, processor, noise(2), **options)
        return result["text"], len(model.asked)

    assert answer() == ("you", 6)   # a guess (-1.2 a token), perhaps speech: no temperature makes it better
    assert answer(logprob_threshold=-1.3) == ("you", 1)
    assert answer(no_speech_threshold=0.4) == ("", 1)
    assert answer(no_speech_threshold=0.4, logprob_threshold=None) == ("", 1)
    assert answer(no_speech_threshold=None, logprob_threshold=None) == ("you", 1)
    assert answer(no_speech_threshold=None, temperatures=(0.0, 0.5)) == ("you", 2)


def test_short_clips_that_loop_are_tried_again_and_the_others_stay(processor):
    loop, good = words("ha" * 20), words(" good")
    model = Script([[good, loop, loop], [words(" worse"), words(" second"), loop], [good, good, words(" third")]],
                   sums=_scores([-0.5] * 3, [-0.5] * 3, [-0.5] * 3))
    results = transcribe(model, processor, [noise(1)] * 3, batch_size=3)
    assert [result["text"] for result in results] == ["good", "second", "third"]
    assert [result["segments"][0]["temperature"] for result in results] == [0.0, 0.2, 0.4]
    assert len({asked["seed"] for asked in model.asked}) == 3
    model = Script([[loop]] * 6)
    assert transcribe(model, processor, noise(1), compression_ratio_threshold=None)["text"] == "ha" * 20
    assert len(model.asked) == 1


@pytest.mark.parametrize("seconds, answer, expected", [
    (1.73, [at(0), *words(" a"), at(2)], [(0.0, 1.73, "a")]),
    (2.0, [at(0), *words(" a"), at(1), at(1), *words(" b"), at(4)], [(0.0, 1.0, "a"), (1.0, 2.0, "b")]),
    (2.0, [at(0), *words(" a"), at(1), at(1), *words(" b"), at(2.5), at(2.5), *words(" c"), at(4)],
     [(0.0, 1.0, "a"), (1.0, 2.0, "b c")]),
    (0.5, [at(0.6), *words(" late"), at(1.0)], [(0.0, 0.5, "late")]),
    (3.0, [at(0), *words(" a"), at(1), at(3), *words(" b"), at(3.5)], [(0.0, 3.0, "a b")]),
    (33.5, None, [(0.0, 30.0, "a"), (30.0, 33.5, "b")]),
])
def test_segments_end_where_the_audio_ends(processor, seconds, answer, expected):
    windows = [[answer]] if answer else [[[at(0), *words(" a"), at(30)]], [[at(0), *words(" b"), at(7)]]]
    result = transcribe(Script(windows), processor, noise(seconds), return_timestamps=True)
    assert [(s["start"], s["end"], s["text"]) for s in result["segments"]] == expected
    assert result["text"] == " ".join(text for _, _, text in expected)
    times = [time for segment in result["segments"] for time in (segment["start"], segment["end"])]
    assert times == sorted(times) and all(s["end"] > s["start"] for s in result["segments"])


def test_a_prompt_goes_before_the_first_window(processor):
    special = SpecialTokens.of(CONFIG)
    model = Script([[words(" x")]])
    transcribe(model, processor, noise(1), prompt=" Names ")
    prompt = [special.start_of_previous, *words(" Names"), special.start, special.no_timestamps]
    assert model.asked[0]["prompts"].tolist() == [prompt] and model.asked[0]["prefix_length"] == 2
    windows = [[[at(0), *words(" a"), at(30)]], [[at(0), *words(" b"), at(5)]]]
    model = Script(windows)
    assert transcribe(model, processor, noise(35), prompt="Names")["text"] == "a b"
    assert model.asked[0]["prompts"][0, -8:].tolist() == [special.start_of_previous, *words(" Names"), special.start]
    assert model.asked[1]["prompts"][0, -12:-1].tolist() == [special.start_of_previous, *words(" Names"), at(0),
                                                            *words(" a"), at(30)]
    model = Script(windows)
    transcribe(model, processor, noise(35), prompt="Names", condition_on_previous_text=False)
    assert model.asked[1]["prompts"].tolist() == [[special.start]]
    with pytest.raises(ValueError, match="prompt: 'xxx.*' has 33 tokens; expected at most 31"):
        transcribe(Script([]), processor, noise(1), prompt="x" * 32)


def test_progress_and_what_is_refused(processor):
    seen = []
    model = Script([[words(" x")], [[at(0), *words(" a"), at(30)]], [[at(0), *words(" b"), at(5)]]])
    transcribe(model, processor, [noise(31), noise(2)], progress=lambda *news: seen.append(news))
    assert seen == [(1, 2.0), (0, 30.0), (0, 31.0)]
    for options, message in (({"language": "zh"}, "English-only"), ({"task": "translate"}, "English-only"),
                             ({"language": "xx"}, "Unknown language 'xx'"), ({"task": "sing"}, "Unknown task")):
        with pytest.raises(ValueError, match=message):
            transcribe(Script([]), processor, noise(1), **options)
    model = Script([])
    model.special_tokens = SpecialTokens(256, 257, 3, False)
    with pytest.raises(ValueError, match="tokenizer .* has .*num_languages=2.*expected the model's .*num_languages=3"):
        transcribe(model, processor, noise(1))


def test_features_in_blocks_equal_the_whole(processor):
    waveform = noise(67)
    got, frames = _features(Script([]), waveform)
    padded = np.concatenate([waveform, np.zeros(len(got) * 160 - len(waveform), "float32")])
    whole = np.asarray(LogMelSpectrogram(80)(padded[None]))[0]
    assert frames == 6700
    np.testing.assert_allclose(got[:-3], whole[:-3], atol=1e-5)  # at the very end the whole one is mirrored


@pytest.mark.parametrize("audio, message", [
    (np.zeros(0, "float32"), "0 samples"), (np.zeros((2, 10), "float32"), r"shape \(2, 10\)"),
    (np.array([np.nan], "float32"), "NaN"), (np.arange(5), "int64")])
def test_bad_waveforms(processor, audio, message):
    with pytest.raises(ValueError, match=message):
        transcribe(Script([]), processor, audio)


def test_unknown_option(processor):
    with pytest.raises(TypeError, match="beams"):
        transcribe(Script([]), processor, noise(1), beams=3)
    assert LongFormOptions().temperatures[0] == 0.0


SEGMENTS = [{"start": 0.0, "end": 2.5, "text": " Hello\n\nthere --> you "},
            {"start": 3661.04, "end": 3662.0, "text": "a<b & c"}]


def test_srt():
    assert to_srt(SEGMENTS) == ("1\n00:00:00,000 --> 00:00:02,500\nHello there -> you\n\n"
                                "2\n01:01:01,040 --> 01:01:02,000\na<b & c\n\n")


def test_vtt():
    text = to_vtt(SEGMENTS)
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.500\n") and "a&lt;b &amp; c" in text
    assert len(re.findall(r"-->", text)) == 2
