"""Ours and theirs by turns in one process, on the same threads: what every benchmark here prints is a ratio.

Import this before TensorFlow: it sets the number of threads that the libraries read when they start.
"""

import multiprocessing
import os
import statistics
import time

THREADS = 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["OMP_NUM_THREADS"] = str(THREADS)


def use_threads():
    """THREADS for TensorFlow and torch; call it before the first op."""
    import tensorflow as tf
    import torch

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    torch.set_num_threads(THREADS)


def make_trainer(model, loss, clip_norm=None):
    """Our train step as the peers' loops have it: AdamW with torch's weight decay, without clipping unless told."""
    from tfhf.optimizers import OptimizerConfig, make_optimizer
    from tfhf.train_steps import Trainer

    config = OptimizerConfig(learning_rate=1e-6, weight_decay=0.01, clip_norm=clip_norm)
    trainer = Trainer(model, loss, seed=0, num_replicas=1, max_traces=9)
    trainer.compile(optimizer=make_optimizer(config, model, 1000))
    return trainer


def timed(function, clock=time.perf_counter):
    """Seconds of one call."""
    begin = clock()
    function()
    return clock() - begin


def compare(name, ours, theirs, rounds=3, peer="torch", clock=time.perf_counter):
    """Alternating rounds after one warm-up of each; prints the medians of both and of their ratio, which it returns.

    With `clock=time.process_time`, and one thread each, other work on the machine does not count.
    """
    compile_seconds = timed(ours, clock)
    theirs()
    pairs = [(timed(ours, clock), timed(theirs, clock)) for _ in range(rounds)]
    mine, other = (statistics.median(side) for side in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name:<34} ours {mine:8.4g} s   {peer} {other:8.4g} s   ratio {ratio:.3g}   "
          f"(first call with compilation {compile_seconds:.1f} s)", flush=True)
    return ratio


class Apart:
    """`make()`, a function without arguments, made and called in a process of its own: two large models with their
    optimizers need not fit into one, and a peer that is imported there changes nothing here."""

    def __init__(self, make):
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        context.Process(target=_answer_calls, args=(make, there), daemon=True).start()
        there.close()

    def __call__(self):
        self._connection.send(None)
        return self._connection.recv()   # EOFError: the process is gone, and has said why


def _answer_calls(make, connection):
    function = make()
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(function())
