"""Compiles a step for a TPU on a machine that has none, by the TPU's own compiler in the package libtpu.

    pip install 'tfhf[preflight]'

Private names of jaxlib are used here and nowhere else, which is why that extra pins its versions exactly.
"""

import dataclasses
import os
import time

MIB = 2**20


class PreflightError(RuntimeError):
    """The compiler cannot be had here, or refuses the step; the message says why."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program for one core.

    Attributes:
        argument_mib, temporary_mib, output_mib: memory on the chip, exact.
        gflop, gigabytes: arithmetic and bytes accessed as the compiler counts them. The body of a loop is counted once,
            so a step with a scan in it does more than this.
        seconds: of compilation.
    """

    argument_mib: float
    temporary_mib: float
    output_mib: float
    gflop: float
    gigabytes: float
    seconds: float


def compile_for_tpu(function, specs, topology="v3:2x2"):
    """Compiles `function` for one core of a TPU.

    Args:
        function: a `tf.function(jit_compile=True)`.
        specs: its arguments as tf.TensorSpec of static shapes.
        topology: kind and chips, such as "v2:2x2", "v3:2x2", "v4:2x2x2", "v5e:2x4", "v6e:2x4".

    Returns:
        `Compiled`.

    Raises:
        PreflightError: the packages are missing, no such topology, or the program does not fit the chip's memory.
    """
    # Read when libtpu is loaded: no question to a metadata server, no search for chips, and no lock on them.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import libtpu  # noqa: F401  the compiler itself, found by jax
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client
        from jax._src.lib.mlir import ir
        from jax._src.lib.mlir.dialects import hlo
        from jax.experimental import topologies
        from jaxlib import _jax
    except ImportError as error:
        raise PreflightError(f"the TPU compiler is not installed ({error}); expected pip install 'tfhf[preflight]', "
                             "on Linux x86-64 with Python 3.11 or newer") from error
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (RuntimeError, ValueError) as error:
        raise PreflightError(f"topology {topology!r}: {error}") from error
    lowered = function.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    begin = time.perf_counter()
    try:
        with mlir.make_ir_context():
            module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(lowered))
            _as_on_a_tpu(module.operation, hlo, ir)
            program = devices[0].client.compile(module, xla_client.DeviceList((devices[0],)), options)
    except _jax.JaxRuntimeError as error:
        raise PreflightError(f"{topology}: {' '.join(str(error).split())[:600]}") from error
    memory, cost = program.get_compiled_memory_stats(), program.cost_analysis()
    return Compiled(memory.argument_size_in_bytes / MIB, memory.temp_size_in_bytes / MIB,
                    memory.output_size_in_bytes / MIB, cost.get("flops", 0.0) / 1e9,
                    cost.get("bytes accessed", 0.0) / 1e9, time.perf_counter() - begin)


def _as_on_a_tpu(operation, hlo, ir):
    """Makes of the HLO that TensorFlow lowers for a CPU what it would lower for a TPU.

    `mhlo.copy` is no StableHLO; a copy is its operand. Random bits come from the algorithm that TensorFlow takes on a
    TPU, the chip's own (tf2xla, DefaultRngAlgForDeviceType): Philox, a CPU's, costs the TPU compiler gigabytes.
    """
    for region in operation.regions:
        for block in region.blocks:
            for item in list(block.operations):
                item = item.operation
                if item.name == "mhlo.copy":
                    item.results[0].replace_all_uses_with(item.operands[0])
                    item.erase()
                elif item.name == "stablehlo.rng_bit_generator":
                    _random_bits_of_the_chip(item, hlo, ir)
                else:
                    _as_on_a_tpu(item, hlo, ir)


def _random_bits_of_the_chip(item, hlo, ir):
    with ir.InsertionPoint(item), item.location:
        # Philox keeps three words (key, counter, counter), the chip two.
        state = hlo.slice(item.operands[0], *(ir.DenseI64ArrayAttr.get([n]) for n in (0, 2, 1)))
        rest = hlo.slice(item.operands[0], *(ir.DenseI64ArrayAttr.get([n]) for n in (2, 3, 1)))
        algorithm = ir.Attribute.parse("#stablehlo<rng_algorithm DEFAULT>")
        bits = hlo.RngBitGeneratorOp(state.type, item.results[1].type, algorithm, state)
        item.results[0].replace_all_uses_with(
            hlo.concatenate([bits.results[0], rest], ir.IntegerAttr.get(ir.IntegerType.get_signless(64), 0)))
        item.results[1].replace_all_uses_with(bits.results[1])
    item.erase()
