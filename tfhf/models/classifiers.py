"""Which ported model classifies texts, by a folder's config.json, and what its fields are called."""

from __future__ import annotations

from dataclasses import dataclass

from tfhf import weights
from tfhf.models.bert.model import BertForSequenceClassification
from tfhf.models.gpt2.model import GPT2ForSequenceClassification
from tfhf.models.pretrained import FILES


class ModelKindError(ValueError):
    """A folder of a model that there is no classifier for."""


@dataclass(frozen=True)
class TextClassifier:
    """A class of models, and the fields of its config that a dropout and a pooling are for."""

    model_class: type
    dropouts: tuple[str, ...]
    poolings: tuple[str, ...] = ()

    def from_pretrained(self, path, new_head, dropout, pooling, **changes):
        """The model of a Hugging Face folder or hub id: `PreTrainedModel.from_pretrained` with dropout and pooling."""
        changes |= dict.fromkeys(self.dropouts, dropout) | dict.fromkeys(self.poolings, pooling)
        return self.model_class.from_pretrained(path, new_head, **changes)


CLASSIFIERS = {
    "bert": TextClassifier(BertForSequenceClassification, ("hidden_dropout_prob", "attention_probs_dropout_prob"),
                           ("classifier_pooling",)),
    "gpt2": TextClassifier(GPT2ForSequenceClassification, ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
}


def classifier_folder(path) -> tuple:
    """(folder, `TextClassifier`) of a Hugging Face folder or hub id.

    Raises:
        ModelKindError: it is of another kind of model.
        FileNotFoundError: there is no such folder, or no config.json in it.
    """
    folder = weights.local_folder(path, allow_patterns=FILES)
    content = weights.read_json(folder / "config.json")
    kind = content.get("model_type")
    if kind is None:   # of before 2020
        named = str((content.get("architectures") or [""])[0]).lower()
        kind = next((known for known in CLASSIFIERS if named.startswith(known)), None)
    if not isinstance(kind, str) or kind not in CLASSIFIERS:
        raise ModelKindError(f"{folder}: model_type is {kind!r}; classifiers are made of {', '.join(CLASSIFIERS)}.")
    return folder, CLASSIFIERS[kind]
