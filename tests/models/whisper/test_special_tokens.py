"""Special tokens of checkpoints whose vocabulary grew: by the family, the tokenizer, the generation config."""

import json

import numpy as np
import pytest

from tests.models.whisper.test_model import SMALL, VARIANTS, inputs_for, small_model
from tfhf.models.whisper import convert
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.generation import TimestampRules
from tfhf.models.whisper.model import WhisperForConditionalGeneration
from tfhf.models.whisper.processor import WhisperFeatureExtractor, WhisperProcessor
from tfhf.models.whisper.special_tokens import SpecialTokens
from tfhf.models.whisper.tokenizer import WhisperTokenizer, tiny_tokenizer_json
from tfhf.tokenizers.byte_level import ByteLevelDecoder

ENGLISH = VARIANTS["english"]


@pytest.mark.parametrize("more, rows, expected", [
    (ENGLISH, (51864, 51866, 51872, 51904, 52000), (99, False, 50358, 50362, 50363)),
    ({}, (51865, 51866, 51872, 51904, 52001), (99, True, 50359, 50363, 50364)),
    ({"num_mel_bins": 128}, (51866, 51867, 51872, 51968), (100, True, 50360, 50364, 50365))])
def test_added_rows_change_no_id(more, rows, expected):
    for vocab_size in rows:
        special = SpecialTokens.of(WhisperConfig(**{**more, "vocab_size": vocab_size}))
        assert (special.num_languages, special.multilingual, special.transcribe, special.no_timestamps,
                special.first_timestamp) == expected


@pytest.mark.parametrize("config, words", [
    (dict(vocab_size=51863, **{k: v for k, v in ENGLISH.items() if k != "vocab_size"}), "leaves no room|no published"),
    (dict(vocab_size=50365), "leaves no room"),
    (dict(vocab_size=51865, num_mel_bins=40), "of no published family.*tokenizer.json or generation_config.json"),
    (dict(vocab_size=1768, eos_token_id=256, decoder_start_token_id=257), "of no published family")])
def test_what_no_family_tells_is_refused(config, words):
    with pytest.raises(ValueError, match=words):
        SpecialTokens.of(WhisperConfig(**config))


def _folder(path, rows, added=(), end=50257, languages=99, generation=None, **config):
    """A checkpoint of `rows` tokens with the tokens `added` behind the timestamps, as (text, is special)."""
    path.mkdir()
    tiny_tokenizer_json(path / "tokenizer.json", num_languages=languages, end=end)
    content = json.loads((path / "tokenizer.json").read_text("utf-8"))
    first = WhisperTokenizer(path / "tokenizer.json").special.count
    # As transformers writes them: the timestamps are ordinary added tokens.
    tokens = [(f"<|{0.02 * step:.2f}|>", False) for step in range(1501)] + list(added)
    content["added_tokens"] += [{**content["added_tokens"][0], "id": first - 1501 + place, "content": text,
                                 "special": special} for place, (text, special) in enumerate(tokens)]
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = WhisperConfig(**{**SMALL, "vocab_size": rows, **config})
    model = WhisperForConditionalGeneration(config)
    model.generation_config = generation if generation is not None else {"eos_token_id": config.eos_token_id}
    model.save_pretrained(path)
    WhisperProcessor(WhisperFeatureExtractor(80, config.max_samples),
                     WhisperTokenizer(path / "tokenizer.json")).save_pretrained(path)
    return path


def test_a_checkpoint_with_added_tokens(tmp_path):
    """Of a vocabulary that nobody published, so that only the tokenizer tells."""
    folder = _folder(tmp_path / "grown", 1784, [("naïve word", False), ("<laugh>", True)], end=256, languages=3,
                     eos_token_id=256, pad_token_id=256, bos_token_id=256, decoder_start_token_id=257)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    special, tokenizer = model.special_tokens, WhisperProcessor.from_pretrained(folder).tokenizer
    assert special == tokenizer.special and (special.num_languages, special.count) == (3, 1768)
    assert tokenizer.vocab_size == 1770 and model.config.vocab_size == 1784
    ids = tokenizer.encode("a naïve word<laugh> b<|0.00|>")
    assert ids[:4] == [97, 32, 1768, 1769] and special.first_timestamp not in ids
    row = [257, *ids[:4], 1783, 98]
    assert tokenizer.decode(row) == "a naïve wordb"
    assert "<laugh>" in tokenizer.decode(row, skip_special_tokens=False)
    graph = ByteLevelDecoder(tokenizer.path, model.config.vocab_size, special.end, tokenizer.added_texts())
    assert graph.decode([row]).numpy()[0].decode() == "a naïve wordb"
    rules = TimestampRules(1784, special)
    assert rules.is_time.sum() == 1501 and rules.is_text[[97, 1768, 1783]].all() and not rules.is_text[256:1768].any()
    again = WhisperForConditionalGeneration.from_config(model.get_config())
    assert again.special_tokens == special and again.generation_config == model.generation_config
    model.save_pretrained(tmp_path / "saved")
    assert convert.read_special_tokens(tmp_path / "saved") == special   # the tokenizer goes with the model
    ids = model.generate(inputs_for(model.config)["input_features"], max_new_tokens=4)
    assert ids.shape == (2, 6) and (ids[:, :2] == [257, special.no_timestamps]).all()


def test_generation_config_tells_where_there_is_no_tokenizer(tmp_path):
    model = small_model(**VARIANTS["large-v3"])
    content = convert.generation_config(model.config, {}, model.special_tokens)
    assert SpecialTokens.of_generation_config(content, "here") == model.special_tokens
    english = small_model(**ENGLISH)
    content = convert.generation_config(english.config, {}, english.special_tokens)
    assert SpecialTokens.of_generation_config(content, "here") == english.special_tokens
    assert SpecialTokens.of_generation_config({"eos_token_id": 50257, "max_length": 448}, "here") is None


@pytest.mark.parametrize("harm", [
    {"task_to_id": {"transcribe": 50360}}, {"lang_to_id": {"<|en|>": 50259, "<|yue|>": 50358}},
    {"no_timestamps_token_id": 50364}, {"prev_sot_token_id": 50362}, {"no_timestamps_token_id": 50262}])
def test_a_generation_config_of_another_model(harm, tmp_path):
    content = {"eos_token_id": 50257, "decoder_start_token_id": 50258, "no_timestamps_token_id": 50363,
               "lang_to_id": {"<|en|>": 50259}, "task_to_id": {"transcribe": 50359}, "is_multilingual": True, **harm}
    with pytest.raises(ValueError, match="generation_config.json: .* do not fit"):
        SpecialTokens.of_generation_config(content, "generation_config.json")


def test_files_that_do_not_agree(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    tiny_tokenizer_json(folder / "tokenizer.json", num_languages=99, end=50257)
    v3 = {"eos_token_id": 50257, "decoder_start_token_id": 50258, "no_timestamps_token_id": 50364}
    (folder / "generation_config.json").write_text(json.dumps(v3))
    words = "tokenizer.json has .*99 languages.*generation_config.json has .*100 languages"
    with pytest.raises(ValueError, match=words):
        convert.read_special_tokens(folder)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match="generation_config.json: is damaged"):
        convert.read_special_tokens(folder)


def test_a_token_in_the_place_of_a_timestamp(tmp_path):
    """Tokenizers of 2022 end before the timestamps: a token added to one has the id of <|0.00|>."""
    tiny_tokenizer_json(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 266, "content": "mine"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"added token 'mine' has id 266, which is the timestamp <\|0.00\|>"):
        WhisperTokenizer(tmp_path / "tokenizer.json")
    content["added_tokens"][-1]["id"] = 1767   # behind the timestamps, which the file leaves out
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'mine' has the id 1767; expected a whole number"):
        WhisperTokenizer(tmp_path / "tokenizer.json")


def test_too_few_rows_for_the_tokenizer():
    model = small_model(**ENGLISH)
    with pytest.raises(ValueError, match="vocab_size=51864: expected at least 51866"):
        model.set_special_tokens(SpecialTokens.of(WhisperConfig(**VARIANTS["large-v3"])))
    model.set_special_tokens(None)
    assert model.special_tokens.no_timestamps == 50362


def test_a_list_of_languages(tmp_path):
    model = small_model(**VARIANTS["multilingual"])
    features = inputs_for(model.config)["input_features"]
    heard, _ = model.detect_language(features)
    ids = model.generate(features, [None, "pt-BR"], max_new_tokens=2, jit_compile=False)
    assert ids[:, 1].tolist() == [model.special_tokens.language(code) for code in (heard[0], "pt")]
    with pytest.raises(ValueError, match="a list of 1; expected one for each of 2 clips"):
        model.generate(np.asarray(features), ["hi"])
