"""Folders in the place of published checkpoints: their shapes and vocabularies, no weights.

What a step costs does not depend on what the weights are, and not on which token is which word. So preflight needs no
download: for a published name it takes a folder with the configuration that the model's `of_size` knows, and with a
vocabulary of the right size.
"""

from __future__ import annotations

import contextlib
import string
import tempfile
from pathlib import Path
from typing import Iterator

from tokenizers import Tokenizer, models, pre_tokenizers

from tfhf import weights
from tfhf.models.bert.config import SIZES as BERT_SIZES
from tfhf.models.bert.config import BertConfig
from tfhf.models.bert.convert import SPECIAL_TOKENS, write_tokenizer
from tfhf.models.efficientnet_lite.config import SIZES as EFFICIENTNET_LITE_SIZES
from tfhf.models.gpt2.config import SIZES as GPT2_SIZES
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.resnet.config import SIZES as RESNET_SIZES
from tfhf.models.wav2vec2.config import SIZES as WAV2VEC2_SIZES
from tfhf.models.wav2vec2.config import Wav2Vec2Config
from tfhf.models.wav2vec2.tokenizer import Wav2Vec2CTCTokenizer
from tfhf.models.whisper.config import SIZES as WHISPER_SIZES
from tfhf.models.whisper.config import WhisperConfig
from tfhf.models.whisper.special_tokens import SpecialTokens
from tfhf.models.whisper.tokenizer import tiny_tokenizer_json
from tfhf.tokenizers.byte_level import byte_of_character
from tfhf.tokenizers.in_graph import END_TOKEN

# Hub ids: the sizes' names with an owner, but for these.
_WAV2VEC2 = {"facebook/wav2vec2-large-xlsr-53": "xlsr-53", "facebook/mms-300m": "mms-300m",
             "facebook/mms-1b": "mms-1b", "facebook/wav2vec2-large-robust": "robust"}
_WAV2VEC2 |= {f"facebook/wav2vec2-{size}": size for size in WAV2VEC2_SIZES if size.startswith(("base", "large"))}
_WHISPER = {f"openai/whisper-{size}": size for size in WHISPER_SIZES}
_GPT2 = {f"openai-community/{size}": size for size in GPT2_SIZES if size.startswith("gpt2")}
_GPT2 |= {"distilbert/distilgpt2": "distilgpt2"}
_BERT = {f"{'sentence-transformers' if size.startswith('all-') else 'google-bert'}/{size}": size for size in BERT_SIZES
         if size != "bert-tiny"}
_BERT |= {"google/bert_uncased_L-2_H-128_A-2": "bert-tiny"}
# timm's are named for their training too: timm/resnet50.a1_in1k.
_TIMM = (*RESNET_SIZES, *(f"tf_{size}" for size in EFFICIENTNET_LITE_SIZES), "vgg19")


@contextlib.contextmanager
def no_checkpoints() -> Iterator[None]:
    """A context in which published names are models of random weights, and nothing of them is downloaded.

    A name that is not known here is asked for at the hub as always, but for its weights.
    """
    with tempfile.TemporaryDirectory(prefix="tfhf-preflight-") as root:
        folders = {}

        def stand_in(name):
            write = _WRITERS.get(name, _write_timm if _architecture(name) in _TIMM else None)
            if name not in folders and write is not None:
                folders[name] = Path(root) / str(len(folders))
                folders[name].mkdir()
                write(folders[name], name)
            return folders.get(name)

        with weights.without_weights(stand_in):
            yield


def _write_whisper(folder, name):
    config = WhisperConfig.of_size(_WHISPER[name])
    weights.write_json(folder / "config.json", {"model_type": "whisper", **config.to_dict()})
    tiny_tokenizer_json(folder / "tokenizer.json", SpecialTokens.of(config).num_languages, config.eos_token_id)


def _write_wav2vec2(folder, name):
    config = Wav2Vec2Config.of_size(_WAV2VEC2[name])
    weights.write_json(folder / "config.json", {"model_type": "wav2vec2", **config.to_dict()})
    letters = string.ascii_uppercase + "'"
    Wav2Vec2CTCTokenizer.from_corpus([letters], case="upper", log=lambda line: None).save_pretrained(folder)


def _architecture(name):
    return name.removeprefix("timm/").partition(".")[0] if name.startswith("timm/") else None


def _write_timm(folder, name):
    weights.write_json(folder / "config.json", {"architecture": _architecture(name), "num_classes": 1000})


def _write_gpt2(folder, name):
    config = GPT2Config.of_size(_GPT2[name])
    weights.write_json(folder / "config.json", {"model_type": "gpt2", **config.to_dict()})
    tokens = [*byte_of_character(), *(f"unused{number}" for number in range(256, config.vocab_size - 1))]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([END_TOKEN])
    tokenizer.save(str(folder / "tokenizer.json"))


def _write_bert(folder, name):
    config = BertConfig.of_size(_BERT[name])
    weights.write_json(folder / "config.json", {"model_type": "bert", **config.to_dict()})
    pieces = [*SPECIAL_TOKENS, *string.ascii_lowercase]
    pieces += [f"unused{number}" for number in range(len(pieces), config.vocab_size)]
    write_tokenizer(folder / "tokenizer.json", {piece: number for number, piece in enumerate(pieces)})


_WRITERS = {name: write for names, write in ((_WHISPER, _write_whisper), (_WAV2VEC2, _write_wav2vec2),
                                             (_GPT2, _write_gpt2), (_BERT, _write_bert)) for name in names}
