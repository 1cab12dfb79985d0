"""Virtual tokens and prefixes in the speech models, which `peft` has no way to give them."""

import keras
import numpy as np
import pytest

from tests.models.whisper import test_model as whisper
from tests.peft.conftest import moved
from tfhf.models.wav2vec2.convert import tiny_config
from tfhf.models.wav2vec2.model import Wav2Vec2ForCTC
from tfhf.peft.config import PeftError, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from tfhf.peft.model import PeftModel, get_peft_model


def test_a_prefix_of_whisper_is_the_past_that_transformers_takes(tmp_path):
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    base = whisper.small_model(vocab_size=51865)
    inputs = whisper.inputs_for(base.config)
    base.save_pretrained(tmp_path)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    model = get_peft_model(base, PrefixTuningConfig(num_virtual_tokens=4))
    moved(model.trainable_variables)
    got = model(inputs)
    rows = model.prompt_encoder.embedding.embeddings.numpy()  # [virtual, layers * 2 * width]
    past = rows.reshape(4, 3 * 2, 2, 16).transpose(1, 2, 0, 3)[:, None].repeat(2, axis=1)
    past = [(torch.tensor(past[2 * i]), torch.tensor(past[2 * i + 1])) for i in range(3)]
    cache = transformers.EncoderDecoderCache(transformers.DynamicCache(past), transformers.DynamicCache())
    with torch.no_grad():
        expected = theirs(input_features=torch.tensor(inputs["input_features"]), past_key_values=cache,
                          decoder_input_ids=torch.tensor(inputs["decoder_input_ids"]).long()).logits
    np.testing.assert_allclose(got, expected, atol=1e-4)
    model.save_pretrained(tmp_path / "adapter")
    back = PeftModel.from_pretrained(whisper.small_model(vocab_size=51865), tmp_path / "adapter")
    np.testing.assert_allclose(back(inputs), got, atol=1e-6)


def test_virtual_tokens_of_whisper_stand_before_the_decoders():
    base = whisper.small_model(vocab_size=51865)
    inputs = whisper.inputs_for(base.config)
    model = get_peft_model(base, PromptTuningConfig(num_virtual_tokens=3))
    model.prompt_encoder.embedding.embeddings.assign(base.model.decoder.embed_tokens.embeddings.numpy()[[5, 6, 7]])
    longer = np.concatenate([np.tile([[5, 6, 7]], (2, 1)), inputs["decoder_input_ids"]], axis=1).astype("int32")
    got = model(inputs)
    expected = model.unload()({**inputs, "decoder_input_ids": longer})[:, 3:]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("config", [PrefixTuningConfig(num_virtual_tokens=3),
                                    PromptEncoderConfig(num_virtual_tokens=3)])
def test_wav2vec2_hears_them_whatever_the_padding(config, tmp_path):
    def make():
        keras.utils.set_random_seed(0)
        return Wav2Vec2ForCTC(tiny_config(vocab_size=11))

    waves = np.random.default_rng(0).normal(size=(2, 1600)).astype("float32")
    inputs = {"input_values": waves, "input_lengths": np.array([1600, 900], "int32")}
    longer = {**inputs, "input_values": np.pad(waves, ((0, 0), (0, 320)))}
    plain = np.asarray(make()(inputs))
    model = get_peft_model(make(), config)
    got = np.asarray(model(inputs))
    assert got.shape == plain.shape and np.abs(got - plain).max() > 1e-4
    np.testing.assert_allclose(np.asarray(model(longer))[:, :got.shape[1]], got, atol=1e-4)
    model.save_pretrained(tmp_path)
    np.testing.assert_allclose(PeftModel.from_pretrained(make(), tmp_path)(inputs), got, atol=1e-5)


def test_models_without_known_places():
    model = keras.Sequential([keras.layers.Dense(2, name="only")])
    model.build((None, 3))
    with pytest.raises(PeftError, match="Sequential: got a config of type NoneType; adapters know GPT2Config"):
        get_peft_model(model, PrefixTuningConfig())
    with pytest.raises(PeftError, match="got SAMPLE_VOCAB; Wav2Vec2ForCTC has no vocabulary"):
        get_peft_model(Wav2Vec2ForCTC(tiny_config()), PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB"))
