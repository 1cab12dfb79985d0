"""Whisper's generation against transformers, and the loop against teacher forcing."""

import numpy as np
import pytest
from keras import ops

from tests.models.whisper.test_model import VARIANTS, inputs_for, small_model
from tfhf.models.whisper.generation import TimestampRules
from tfhf.models.whisper.special_tokens import SpecialTokens


@pytest.fixture(scope="module")
def english():
    return small_model(**VARIANTS["english"])


@pytest.fixture(scope="module")
def multilingual():
    return small_model(**VARIANTS["multilingual"])


def test_cached_steps_equal_teacher_forcing(english):
    features = inputs_for(english.config)["input_features"]
    ids = english.generate(features, max_new_tokens=10)
    logits = np.asarray(english({"input_features": features, "decoder_input_ids": ids[:, :-1]}))
    log_p = np.asarray(ops.log_softmax(logits))
    result = english.generate_with_scores(features, ids[:, :2], max_new_tokens=10)
    for row in range(2):
        length = result["lengths"][row] + 1
        chosen = log_p[row, 1:][np.arange(10), ids[row, 2:]][:length]
        assert (ids[row, 2:2 + length] == log_p[row, 1:1 + length].argmax(-1)).all()
        assert result["sum_logprobs"][row] == pytest.approx(chosen.sum(), abs=1e-3)
    np.testing.assert_array_equal(result["sequences"], ids[:, 2:])


def test_left_padding_and_batch_change_nothing(english):
    features = inputs_for(english.config)["input_features"]
    prompt = np.array([[50257, 50362], [50257, 50362]], "int32")
    alone = english.generate_with_scores(features, prompt, max_new_tokens=8)
    padded = np.concatenate([np.full((2, 5), 50256, "int32"), prompt], 1)
    left = english.generate_with_scores(features, padded, [2, 2], max_new_tokens=8, prefix_length=2)
    np.testing.assert_array_equal(alone["sequences"], left["sequences"])
    for name in ("sum_logprobs", "no_speech_prob"):
        np.testing.assert_allclose(alone[name], left[name], rtol=1e-4)
    one = english.generate_with_scores(features[1:], prompt[1:], max_new_tokens=8)
    np.testing.assert_array_equal(alone["sequences"][1:], one["sequences"])


@pytest.mark.parametrize("beams", [1, 3])
def test_with_and_without_xla_are_the_same(english, beams):
    features = inputs_for(english.config)["input_features"]
    ids = [english.generate(features, max_new_tokens=6, num_beams=beams, jit_compile=jit) for jit in (True, False)]
    np.testing.assert_array_equal(*ids)
    graph = english.transcript_tokens({"input_features": ops.convert_to_tensor(features)}, "en", "transcribe", 6, beams)
    np.testing.assert_array_equal(ids[0][:, 2:], graph)


@pytest.fixture(scope="module")
def talkative(multilingual):
    """The random model with an end token that is likely, but not at once: searches end at many lengths."""
    table = multilingual.model.decoder.embed_tokens.embeddings
    before, raised = table.numpy(), table.numpy()
    raised[50257] = 1.3 * raised[50300]
    raised *= 3.0
    table.assign(raised)
    yield multilingual
    table.assign(before)


@pytest.mark.parametrize("beams, penalty", [(1, 1.0), (4, 1.0), (4, 0.3), (4, 2.0), (3, 0.0)])
def test_equals_transformers(talkative, tmp_path, beams, penalty):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    talkative.save_pretrained(tmp_path)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    features = inputs_for(talkative.config, batch=8)["input_features"]
    ours = talkative.generate(features, language="de", task="translate", max_new_tokens=12, num_beams=beams,
                              length_penalty=penalty)
    with torch.no_grad():
        expected = theirs.generate(torch.tensor(features), language="de", task="translate", max_new_tokens=12,
                                   num_beams=beams, length_penalty=penalty, num_segment_frames=100).numpy()
    texts = [[[t for t in row if t < 50257] for row in rows] for rows in (ours, expected)]
    assert texts[0] == texts[1]
    alone = talkative.generate(features[3:4], language="de", task="translate", max_new_tokens=12, num_beams=beams,
                               length_penalty=penalty)
    np.testing.assert_array_equal(alone[0], ours[3])


def test_language_is_detected_as_transformers_does(multilingual, tmp_path):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    multilingual.save_pretrained(tmp_path)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    features = inputs_for(multilingual.config, batch=4)["input_features"]
    expected = theirs.detect_language(torch.tensor(features), num_segment_frames=100).numpy().reshape(-1)
    codes, probabilities = multilingual.detect_language(features)
    assert [multilingual.special_tokens.language(code) for code in codes] == list(expected)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-5)
    prompt = multilingual.generate(features, max_new_tokens=2)[:, :4]
    assert list(prompt[:, 1]) == list(expected)


def test_timestamp_rules_equal_transformers(multilingual):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

    special, vocabulary = SpecialTokens.of(multilingual.config), 51865
    options = transformers.GenerationConfig(eos_token_id=special.end, no_timestamps_token_id=special.no_timestamps,
                                            max_initial_timestamp_index=50)
    theirs = WhisperTimeStampLogitsProcessor(options, begin_index=3)
    rng, first = np.random.default_rng(0), special.first_timestamp
    sequences = [[], [first], [first + 5, 17], [first, 17, first + 9], [first, 17, first + 9, first + 9],
                 [first, 17, first + 9, first + 12, 20], [first + 3, 40, 41]]
    for sequence in sequences:
        logits = rng.normal(0, 2, (4, vocabulary)).astype("float32")
        logits[1, first:] += 6  # timestamps together likelier than any word
        rules = TimestampRules(vocabulary, special)
        state = rules.start(4)
        for index, token in enumerate(sequence):
            state = rules.advance(state, np.full(4, token, "int32"), index)
        got = np.asarray(rules.apply(ops.convert_to_tensor(logits), len(sequence), state))
        ids = torch.tensor([[special.start, special.language("en"), special.transcribe] + sequence] * 4)
        expected = theirs(ids, torch.tensor(logits)).numpy()
        np.testing.assert_array_equal(got > -1e8, np.isfinite(expected))


def test_special_tokens_and_their_errors(english, multilingual):
    assert english.special_tokens.prefix("en", "transcribe", False) == [50257, 50362]
    for language in ("hi", "Hindi"):   # by name as well, wherever one is taken: to train and to generate
        assert multilingual.special_tokens.prefix(language, "translate", True) == [50258, 50276, 50358]
    assert english.special_tokens.prefix("english", "transcribe", False) == [50257, 50362]
    assert SpecialTokens.of(small_model(**VARIANTS["large-v3"]).config).prefix("yue", "transcribe", False) == [
        50258, 50358, 50360, 50364]
    for call, message in [
            (lambda: multilingual.special_tokens.prefix("xx", "transcribe", False), "Unknown language 'xx'"),
            (lambda: multilingual.special_tokens.prefix("en", "sing", False), "Unknown task 'sing'"),
            (lambda: english.special_tokens.prefix("de", "transcribe", False), "English-only model cannot"),
            (lambda: english.detect_language(np.zeros((1, 80, 100), "float32")), "English-only model cannot"),
            (lambda: english.generate(np.zeros((1, 80, 100), "float32"), max_new_tokens=40), "exceed the decoder's 40"),
            (lambda: english.generate(np.zeros((1, 80, 100), "float32"), max_new_tokens=4, num_beams=2,
                                      temperature=0.5), "takes temperature 0")]:
        with pytest.raises(ValueError, match=message):
            call()


def test_suppressed_tokens_are_never_written(english):
    features = inputs_for(english.config)["input_features"]
    free = english.generate(features, max_new_tokens=6)
    banned = sorted(set(free[:, 2:].reshape(-1)) - {50256})
    english.generation_config = {"suppress_tokens": [int(t) for t in banned]}
    english.__dict__.pop("_compiled_functions")
    bound = english.generate(features, max_new_tokens=6)
    assert not set(bound[:, 2:].reshape(-1)) & set(banned)
    del english.generation_config
    english.__dict__.pop("_compiled_functions")


def test_a_second_call_does_not_compile_again(english):
    features = inputs_for(english.config)["input_features"]
    prompt = np.array([[50257, 50362]] * 2, "int32")
    for temperature, seed in ((0.3, 1), (0.9, 2)):
        english.generate_with_scores(features, prompt, max_new_tokens=5, temperature=temperature, seed=seed)
    decoders = [f for key, f in english.__dict__["_compiled_functions"].items()
                if key[0] == "decode" and "max_new_tokens=5" in str(key) and "sample=True" in str(key)]
    assert len(decoders) == 1 and decoders[0].experimental_get_tracing_count() == 1
