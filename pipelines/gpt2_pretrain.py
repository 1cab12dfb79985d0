"""GPT-2 from scratch on token records: a causal language model.

Paper: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; numbers that it leaves out are those
of its reproductions (Brown et al. 2020, appendix B; karpathy/nanoGPT): AdamW (0.9, 0.95), weight decay 0.1, rate 6e-4
after a warm-up of 2,000 steps and then by the cosine to a tenth, 0.5 M tokens a step, no dropout.

    tfhf records text --files train=CORPUS.txt --held-out 0.01 --train-tokenizer 50257 --out gs://BUCKET/text
    tfhf train gpt2_pretrain --strategy tpu data.path=gs://BUCKET/text task.tokenizer=gs://BUCKET/text/tokenizer.json
    tfhf evaluate gpt2_pretrain ...                                       perplexity
    tfhf export gpt2_pretrain PROMPT.txt ...                              prompt -> continuation

`default`, the 124 M model on a v3-8: 8 rows of 1,024 a core x 8 cores x 8 micro-batches = 524,288 tokens a step. Not
run by us. `king_james`: a model of 1.35 M parameters on a real book, two CPU cores:

    tfhf records king_james --train-tokenizer 4096 --length 256 --out DIR
    tfhf train gpt2_pretrain --recipe king_james --data DIR task.tokenizer=DIR/tokenizer.json

Its perplexity beside that of the words' bare frequencies, and what it writes: docs/results.md.
"""

import dataclasses

from tfhf.causal_lm import CausalLMConfig, CausalLMTask
from tfhf.models.gpt2.config import GPT2Config
from tfhf.models.gpt2.model import GPT2LMHeadModel
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig

_NO_DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


@dataclasses.dataclass(frozen=True)
class GPT2PretrainConfig(CausalLMConfig):
    """`model`: the shape; its vocab_size is at least the tokenizer's. The other fields: see `CausalLMConfig`."""

    model: GPT2Config = GPT2Config.of_size("gpt2", **_NO_DROPOUT)


class GPT2PretrainTask(CausalLMTask):  # token rows in, -log p out; prompts in, continuations out
    name, Config = "gpt2_pretrain", GPT2PretrainConfig

    @classmethod
    def tiny(cls):
        shape = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0,
                           eos_token_id=0, initializer_range=0.1, **_NO_DROPOUT)
        return cls(GPT2PretrainConfig(row_length=24, max_prompt_tokens=8, max_new_tokens=8, model=shape))

    def language_model(self):
        return GPT2LMHeadModel(self.config.model)


TASK = GPT2PretrainTask
RECIPES = {
    "default": RunConfig(
        output="runs/gpt2_pretrain", data=DataConfig("records"), task=GPT2PretrainConfig(), batch_size=512,
        accumulate=8, eval_batch_size=64, steps=600_000, precision="mixed_bfloat16", steps_per_execution=100,
        log_every=100, checkpoint_every=5000, evaluate_every=5000, optimizer=OptimizerConfig(
            learning_rate=6e-4, schedule="cosine", final_fraction=0.1, warmup_steps=2000, weight_decay=0.1,
            beta_2=0.95)),
    "king_james": RunConfig(
        output="runs/king_james", data=DataConfig("records"), batch_size=8, eval_batch_size=8, steps=600, log_every=20,
        checkpoint_every=200, optimizer=OptimizerConfig(
            learning_rate=3e-3, schedule="cosine", final_fraction=0.1, warmup_steps=50, weight_decay=0.1, beta_2=0.95),
        task=GPT2PretrainConfig(row_length=256, max_prompt_tokens=64, max_new_tokens=64, model=GPT2Config(
            vocab_size=4096, n_positions=256, n_embd=128, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0,
            **_NO_DROPOUT))),
}
