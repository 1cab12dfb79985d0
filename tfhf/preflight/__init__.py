"""Compiles the real step for a TPU on a machine without one, and says whether it fits and what it costs."""

from tfhf.preflight.compiler import Compiled, OutOfMemory, PreflightError, all_reduce_sum, compile_for_tpu

__all__ = ["Compiled", "OutOfMemory", "PreflightError", "all_reduce_sum", "compile_for_tpu"]
