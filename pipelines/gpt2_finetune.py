"""GPT-2 fine-tuned on token records, from a Hugging Face checkpoint.

Paper: Radford et al. 2019. The records hold ids of the checkpoint's own tokenizer; others are refused:

    tfhf records text --files train=TEXTS.jsonl --held-out 0.05 --tokenizer GPT2/tokenizer.json --length 512 --out DIR
    tfhf train gpt2_finetune task.pretrained=GPT2 task.tokenizer=DIR/tokenizer.json --data DIR --output RUN
    tfhf evaluate gpt2_finetune ... --checkpoint initial                  perplexity before, and without it after
    tfhf export gpt2_finetune PROMPT.txt ...                              prompt -> continuation

GPT2: a folder with config.json, model.safetensors and tokenizer.json, or a hub id such as openai-community/gpt2.
`default`, written for a v3-8: 4 rows of 1,024 a core, 2,000 steps at 5e-5. Not run by us: no checkpoint to be had.
`tiny_cpu`: rows of 256, for checkpoints such as `gpt2_pretrain` makes (`load_trained(...).save_pretrained(folder)`).
Only the upper layers: freeze='/(wte|wpe|h_[0-5])/'. `lora`: an adapter alone (Hu et al. 2021; 294,912 of GPT-2's
124 M parameters, rates ten times higher); in any recipe by task.lora.r=8. Exports have it merged; see docs/peft.md.
"""

import dataclasses
import tempfile
from pathlib import Path

from tfhf.causal_lm import CausalLMConfig, CausalLMTask
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.model import GPT2LMHeadModel
from tfhf.optimizers import OptimizerConfig
from tfhf.peft.config import LoraConfig
from tfhf.peft.model import adapted
from tfhf.run import DataConfig, RunConfig
from tfhf.tokenizers.training import train_tokenizer

_TEXTS = ("the quick brown fox jumps over the lazy dog", "and the dog barks at the fox that jumps and jumps")


@dataclasses.dataclass(frozen=True)
class GPT2FinetuneConfig(CausalLMConfig):
    """`pretrained`: a Hugging Face folder or hub id. `lora`: train an adapter alone. The other fields: see
    `CausalLMConfig`."""

    pretrained: str = "openai-community/gpt2"
    dropout: float = 0.1
    recompute_activations: bool = False
    lora: LoraConfig | None = None


class GPT2FinetuneTask(CausalLMTask):  # token rows in, -log p out; prompts in, continuations out
    name, Config = "gpt2_finetune", GPT2FinetuneConfig

    @classmethod
    def tiny(cls):
        folder = Path(tempfile.mkdtemp(prefix="tfhf-tiny-gpt2-"))
        train_tokenizer(_TEXTS, folder / "tokenizer.json", "bpe", 280, special_tokens=("<|endoftext|>",))
        shape = GPT2Config(vocab_size=280, n_positions=48, n_embd=32, n_layer=2, n_head=4, bos_token_id=0,
                           eos_token_id=0, initializer_range=0.1)
        GPT2LMHeadModel(shape).save_pretrained(folder)
        return cls(GPT2FinetuneConfig(row_length=24, max_prompt_tokens=16, max_new_tokens=8, pretrained=str(folder),
                                      dropout=0.0))

    def language_model(self):
        o = self.config
        model = GPT2LMHeadModel.from_pretrained(o.pretrained, resid_pdrop=o.dropout, embd_pdrop=o.dropout,
                                                attn_pdrop=o.dropout, recompute_activations=o.recompute_activations)
        return adapted(model, o.lora, "CAUSAL_LM")


TASK = GPT2FinetuneTask
_ANY = RunConfig(
    output="runs/gpt2_finetune", data=DataConfig("records"), task=GPT2FinetuneConfig(),
    batch_size=32, eval_batch_size=32, steps=2000, precision="mixed_bfloat16", log_every=20, checkpoint_every=500,
    evaluate_every=500, steps_per_execution=10,
    optimizer=OptimizerConfig(learning_rate=5e-5, schedule="linear", warmup_steps=100, weight_decay=0.01))
RECIPES = {
    "default": _ANY,
    "lora": dataclasses.replace(
        _ANY, output="runs/gpt2_lora", task=dataclasses.replace(_ANY.task, lora=LoraConfig(r=8, lora_alpha=16)),
        optimizer=dataclasses.replace(_ANY.optimizer, learning_rate=5e-4)),
    "tiny_cpu": dataclasses.replace(
        _ANY, batch_size=8, eval_batch_size=8, steps=200, precision="float32", steps_per_execution=1, evaluate_every=0,
        checkpoint_every=0, task=GPT2FinetuneConfig(row_length=256, max_prompt_tokens=64, dropout=0.0)),
}
