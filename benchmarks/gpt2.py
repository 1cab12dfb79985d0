"""GPT-2 124M against transformers on torch: the same weights, the same prompts, 2 threads, in one run.

    python -m benchmarks.gpt2              times on the CPU
    python -m benchmarks.gpt2 --tpu        memory, bytes and FLOP of a train step on a TPU v3 core (extra preflight)

On the CPU: 64 greedy tokens behind a prompt of 32, and a train step (AdamW) on 2 x 256 tokens. Claims: tokens a second
at least 1.3 times theirs, so ratios of seconds at most 0.77.

On the TPU: 8 x 1,024 tokens, mixed_bfloat16, AdamW, no dropout, without and with segments. Claims: at most 4.0 GB of
temporary memory, 90 GB accessed, 9.5 TFLOP, MFU of at least 60 % by the bytes. Bytes and FLOP are counted by
tfhf.preflight from the optimised program, loops by their trips (this step has none); MFU is that of the model, by the
formula of PaLM (Chowdhery et al. 2022, appendix B), over the larger one of the two times.
"""

from benchmarks.side_by_side import THREADS, compare, use_threads  # first: it sets the threads

import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfhf.losses.vocabulary import MeanTokenLoss
from tfhf.models.gpt2.config import PARAMETER_COUNTS, GPT2Config
from tfhf.models.gpt2.model import GPT2LMHeadModel
from tfhf.optimizers import OptimizerConfig, make_optimizer
from tfhf.train_steps import Trainer

NEW_TOKENS = 64
OFF = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def _trainer(model):
    trainer = Trainer(model, MeanTokenLoss(), seed=0, num_replicas=1, max_traces=9)
    trainer.compile(optimizer=make_optimizer(OptimizerConfig(learning_rate=1e-6), model, 1000))
    trainer.optimizer.build(model.trainable_variables)
    return trainer


def main_tpu(batch=8, length=1024):
    """Compiles the step, and prints what it takes."""
    from tfhf.preflight import compile_for_tpu
    from tfhf.preflight.chips import tpu_named

    keras.config.set_dtype_policy("mixed_bfloat16")
    config, tpu = GPT2Config(**OFF), tpu_named("v3-8")
    trainer = _trainer(GPT2LMHeadModel(config))
    model_flops = batch * length * (6 * (PARAMETER_COUNTS["gpt2"] - config.n_positions * config.n_embd)
                                    + 12 * config.n_layer * config.n_embd * length)
    for packed in (False, True)[:1 + ("--packed" in sys.argv)]:
        @tf.function(jit_compile=True)
        def step(ids, weights, *segments):
            inputs = {"input_ids": ids, "labels": ids} | ({"segment_ids": segments[0]} if segments else {})
            return trainer.train_step((inputs, ids, weights))["loss"]

        tokens = tf.TensorSpec((batch, length), tf.int32)
        compiled = compile_for_tpu(step, [tokens, tf.TensorSpec((batch,)), *[tokens] * packed])
        bound = tpu.bound(compiled.costs, 1)
        costs = compiled.costs
        print(f"{'packed' if packed else 'one text a row'}: {compiled}\n"
              f"  temporaries {compiled.temporary_bytes / 1e9:.2f} GB; "
              f"{costs.flops / 1e12:.2f} TFLOP, {bound.arithmetic * 1e3:.0f} ms; "
              f"{costs.bytes / 1e9:.1f} GB, {bound.memory * 1e3:.0f} ms; loops {len(costs.loops)}\n"
              f"  the model's {model_flops / 1e12:.2f} TFLOP: MFU at most {tpu.mfu(model_flops, bound.seconds):.0%} "
              f"(by the bytes alone {tpu.mfu(model_flops, bound.memory):.0%}); the compiler expects "
              f"{bound.compiler * 1e3:.0f} ms", flush=True)


def main():
    """Runs all comparisons."""
    import torch
    import transformers

    use_threads()
    transformers.logging.set_verbosity_error()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}, {THREADS} threads")
    model = GPT2LMHeadModel(GPT2Config(**OFF))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 50000, (1, 32)).astype("int32")
    ids = rng.integers(0, 50000, (2, 256)).astype("int32")
    answers = {}

    def run_ours():
        answers["ours"] = model.generate(prompt, max_new_tokens=NEW_TOKENS)

    def run_theirs():
        with torch.no_grad():
            answers["theirs"] = theirs.generate(
                torch.tensor(prompt).long(), attention_mask=torch.ones(1, 32), max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0).numpy()

    theirs.eval()
    ratio = compare(f"greedy, {NEW_TOKENS} tokens", run_ours, run_theirs, rounds=5)
    print(f"  {1 / ratio:.2f} x their tokens a second; the same tokens: {np.array_equal(*answers.values())}")

    theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-6)

    def torch_step():
        optimizer.zero_grad()
        theirs(torch.tensor(ids).long(), labels=torch.tensor(ids).long()).loss.backward()
        optimizer.step()

    for jit_compile in (False, True):
        step = tf.function(_trainer(model).train_step, jit_compile=jit_compile)
        data = tf.nest.map_structure(tf.constant, ({"input_ids": ids, "labels": ids}, ids, np.ones(2, "float32")))
        ratio = compare(f"train step, 2 x 256, {'XLA' if jit_compile else 'graph'}", lambda: float(step(data)["loss"]),
                        torch_step, rounds=3)
        print(f"  {1 / ratio:.2f} x their tokens a second")


if __name__ == "__main__":
    main_tpu() if "--tpu" in sys.argv else main()
