"""Compiles a step for a TPU on a machine that has none, by the TPU's own compiler in the package libtpu.

    pip install 'tfhf[preflight]'

TensorFlow lowers the step to HLO on the CPU; that is made into StableHLO and given to the compiler of a TPU topology.
Private names of jaxlib and of TensorFlow are used in this file and nowhere else, which is why the extra pins its
versions exactly. Results are kept on disk, in `~/.cache/tfhf/preflight` (TFHF_CACHE=FOLDER: FOLDER/preflight), by a
hash of the lowered program, the topology and the versions: a program is compiled once.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
import time
import types
import zlib
from pathlib import Path

from tfhf.assets import cache_folder
from tfhf.preflight.buffers import Buffer, buffers
from tfhf.preflight.hlo import Costs, costs

MIB = 2**20
_OF_TENSORFLOW = re.compile(r"(site|dist)-packages.(tensorflow|keras)\b")
# No question to a metadata server, no search for chips, no lock on them; then what it would ask that server for, which
# says nothing of the topologies that are compiled for.
_QUIET = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu",
          "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v3-8"}
VERSIONS = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.51"}  # of the extra preflight, in setup.py


class PreflightError(RuntimeError):
    """The compiler cannot be had here, or refuses the step; the message says why."""


class NoCompiler(PreflightError):
    """The compiler is not installed, or in another version: nothing is known of the step."""


class OutOfMemory(PreflightError):
    """The program does not fit the memory of a core.

    Attributes:
        needed_bytes, available_bytes: of HBM, per core: arguments, outputs and temporaries together.
        largest: what fills the memory.
    """

    def __init__(self, message, needed_bytes, available_bytes, in_a_larger_core):
        super().__init__(message)
        self.needed_bytes, self.available_bytes, self._compile = needed_bytes, available_bytes, in_a_larger_core

    @functools.cached_property
    def largest(self) -> tuple[Buffer, ...]:
        """What fills the memory, largest first: arguments and temporaries of the same program on a core of 95 GiB.

        Compiles once more, when it is first asked. Empty where it does not fit such a core either.
        """
        try:
            return self._compile().buffers
        except OutOfMemory:
            return ()


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program, as one of its `replicas` cores runs it.

    Attributes:
        topology: what it was compiled for, such as "v3:2x2".
        replicas: cores that run it together.
        argument_bytes, temporary_bytes, output_bytes: memory on the chip, exact.
        alias_bytes: of the outputs, what lies in the place of an argument (a variable that is updated).
        hlo: the optimised program as text.
        seconds: of compilation, when it was compiled.
        cached: whether it was taken from the disk.
    """

    topology: str
    replicas: int
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    alias_bytes: int
    hlo: str = dataclasses.field(repr=False)
    seconds: float
    cached: bool = False

    def __str__(self):
        return (f"arguments {self.argument_mib:,.0f} MiB, temporaries {self.temporary_mib:,.0f} MiB, outputs "
                f"{self.output_mib:,.0f} MiB, {self.costs.flops / 1e9:,.1f} GFLOP, {self.costs.bytes / 1e9:,.2f} GB, "
                f"compiled in {self.seconds:.1f} s")

    @property
    def total_bytes(self) -> int:
        """Memory on the chip while it runs."""
        return self.argument_bytes + self.temporary_bytes + self.output_bytes - self.alias_bytes

    @property
    def argument_mib(self) -> float:
        """Arguments in MiB."""
        return self.argument_bytes / MIB

    @property
    def temporary_mib(self) -> float:
        """Temporaries in MiB."""
        return self.temporary_bytes / MIB

    @property
    def output_mib(self) -> float:
        """Outputs in MiB."""
        return self.output_bytes / MIB

    @functools.cached_property
    def costs(self) -> Costs:
        """Arithmetic and bytes of the optimised program, loops counted by their trips."""
        return costs(self.hlo)

    @functools.cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """What lies in HBM when memory is fullest, largest first: arguments and temporaries."""
        return buffers(self.hlo)


def compile_for_tpu(function, specs, topology="v3:2x2", replicas=1) -> Compiled:
    """Compiles `function` for the cores of a TPU; nothing is run, nothing outside this machine is asked.

    Args:
        function: a `tf.function(jit_compile=True)`. Variables that it captures become arguments of the program, and
            the variables that it assigns are updated in place. `all_reduce_sum` in it sums over the replicas.
        specs: its arguments as tf.TensorSpec of static shapes.
        topology: kind and chips as libtpu names them, such as "v3:2x2" (tfhf.preflight.chips turns "v3-8" into that).
        replicas: cores that run it together, 1 or all of the topology's.

    Returns:
        `Compiled`.

    Raises:
        OutOfMemory: it does not fit a core; with what was needed and the largest allocations.
        PreflightError: the packages are missing or of other versions, no such topology or number of replicas, a
            dimension that is not static, or an op that cannot be compiled, with its place in the Python source.
    """
    jax = _jax_names()
    try:
        devices = jax.topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (RuntimeError, ValueError) as error:
        raise PreflightError(f"topology {topology!r}: {error}; expected such as 'v3:2x2' (a v3-8)") from error
    if not 1 <= replicas <= len(devices):
        raise PreflightError(f"replicas={replicas}: {topology} has {len(devices)} cores")
    code = getattr(function.python_function, "__code__", None)
    begins = f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
    for number, spec in enumerate(specs):
        argument = f"argument {number} ({spec.name or 'unnamed'}) of {begins}"
        if not spec.shape.is_fully_defined():
            raise PreflightError(f"{argument}: the shape {spec.shape} has a dynamic dimension; a TPU's are static")
        if spec.dtype.name == "string":
            raise PreflightError(f"{argument}: a string; strings stay on the host, expected numbers")
    concrete = function.get_concrete_function(*specs)
    program = _lower(function, specs, concrete)
    with jax.mlir.make_ir_context():
        module = jax.ir.Module.parse(jax.lib.mlir.hlo_to_stablehlo(program))
        _as_on_a_tpu(module.operation, jax, concrete)
        text = module.operation.get_asm(enable_debug_info=True)
    return _compile(text, concrete.graph, topology, replicas)


def all_reduce_sum(tensor, replicas):
    """The sum of `tensor` over `replicas` cores, as `strategy.extended` takes it in a replica on a TPU: for a function
    that `compile_for_tpu` is given; it cannot be run.

    Args:
        tensor: float or int, any static shape.

    Returns:
        Of the same shape and dtype.
    """
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_all_reduce

    return xla_all_reduce(tensor, [list(range(replicas))], "Add", "CrossReplica")


def replica_id():
    """The number of the core that runs it, int32 scalar; as `all_reduce_sum`, it cannot be run."""
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_replica_id

    return xla_replica_id()


@functools.cache
def _jax_names():
    """The names of jaxlib that are used here, its versions checked."""
    expected = "expected pip install 'tfhf[preflight]', on Linux x86-64 with Python 3.11 or newer"
    try:
        found = {name: importlib.metadata.version(name) for name in VERSIONS}
    except importlib.metadata.PackageNotFoundError as error:
        raise NoCompiler(f"the TPU compiler is not installed ({error}); {expected}") from error
    if found != VERSIONS:
        both = ", ".join(f"{name} {found[name]} (expected {VERSIONS[name]})"
                         for name in VERSIONS if found[name] != VERSIONS[name])
        raise NoCompiler(f"the TPU compiler is used through private names, which other versions may not have: "
                         f"found {both}; {expected}")
    # Only while libtpu is loaded, so that nothing else takes this machine for a TPU VM.
    settings = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(settings)
    try:
        import libtpu  # noqa: F401  the compiler itself, found by jax
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client
        from jax._src.lib.mlir import ir
        from jax._src.lib.mlir.dialects import hlo
        from jax.experimental import topologies
        from jaxlib import _jax

        topologies.get_topology_desc(platform="tpu", topology_name="v3:2x2")
    except ImportError as error:
        raise NoCompiler(f"the TPU compiler is not installed ({error}); {expected}") from error
    finally:
        for name in settings:
            del os.environ[name]
    return types.SimpleNamespace(lib=_jax, ir=ir, hlo=hlo, mlir=mlir, client=xla_client, topologies=topologies)


def _lower(function, specs, concrete) -> bytes:
    """-> the HLO of a function, as TensorFlow's bridge to XLA makes it; PreflightError names the ops it refuses."""
    try:
        # By the name of the platform, so that a GPU in this machine changes nothing.
        return function.experimental_get_compiler_ir(*specs)(stage="hlo_serialized", platform_name="CPU")
    except ValueError as error:
        said = str(error)
        unknown = re.findall(r"(\w+) \(No registered '.*?\{\{node (\S+?)\}\}", said, re.S)
        failed = re.findall(r"\{\{node (\S+?)\}\}", said)
        if unknown:
            named = "; ".join(f"{kind} {name!r}, {place(concrete.graph, name)}"
                              for kind, name in dict.fromkeys(unknown))
            raise PreflightError(f"XLA does not compile {named}; expected ops on numbers of static shapes") from error
        if failed:
            reason = said.splitlines()[0].removeprefix("Failed getting HLO text: '")
            raise PreflightError(f"XLA does not compile {failed[0]!r}, {place(concrete.graph, failed[0])}: "
                                 f"{reason}") from error
        raise


def place(graph, name) -> str:
    """Where in the Python source the op `name` was made: "file:line", the innermost that is not of TensorFlow or Keras.

    Args:
        graph: a FuncGraph; the functions that it calls (bodies of loops, branches) are searched too.
        name: of the op, or what XLA makes of it ("call.7/encoder/MatMul"), or this package ("copy of encoder/MatMul").
    """
    operations = _operations(graph)
    parts = re.sub(r"^\S+ (of|for) ", "", name).split("/")
    for start in range(len(parts)):
        found = operations.get("/".join(parts[start:]))
        if found is not None:
            frames = [frame for frame in found.traceback if not _OF_TENSORFLOW.search(frame.filename)]
            return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "place unknown"
    return "place unknown"


@functools.lru_cache(maxsize=2)
def _operations(graph) -> dict:
    """The ops of a graph and of the functions that it calls, by name; of one name the outermost."""
    graphs = [graph] + [function.graph for function in graph._functions.values() if hasattr(function, "graph")]
    return {operation.name: operation for each in reversed(graphs) for operation in each.get_operations()}


def _with_places(module: str, graph) -> str:
    """The module with the lines of the Python source in its locations.

    TensorFlow gives all ops the line of its own that makes ops, with which the compiler's messages would be of no use:
    #loc3 = loc("encoder/MatMul"), #loc8 = loc("….py":1221:0), #loc9 = loc(fused[#loc3, #loc8]).
    """
    names = dict(re.findall(r'^(#loc\d*) = loc\("([^"]*)"\)$', module, re.M))

    def located(line):
        file, _, number = place(graph, names[line[2]]).rpartition(":") if line[2] in names else ("", "", "")
        return f'{line[1]}"{file}":{number}:0])' if number.isdigit() else line[0]

    return re.sub(r"^(#loc\d* = loc\(fused\[(#loc\d*), )#loc\d*\]\)$", located, module, flags=re.M)


def _compile(module: str, graph, topology: str, replicas: int) -> Compiled:
    """Compiles StableHLO, or takes what was made of it before."""
    # TensorFlow numbers functions in the order that a process traces them: @a_inference_step_12__.7, loc("inputs.47").
    names = {}
    same = re.sub(r'@[\w.]+|(?<=\.)\d+"', lambda name: names.setdefault(name[0], f"@{len(names)}"), module)
    key = hashlib.sha256(repr((same, topology, replicas, sorted(VERSIONS.items()))).encode()).hexdigest()[:32]
    file = cache_folder().parent / "preflight" / f"{key}.json.gz"
    known = _read(file)
    cached = known is not None
    if not cached:
        known = _ask_the_compiler(_with_places(module, graph), topology, replicas)
    sizes = _hbm(known.get("error", ""))
    if "error" in known and not sizes:
        raise PreflightError(f"{topology}: {known['error']}")
    if not cached:
        _write(file, known)
    if not sizes:
        return Compiled(topology=topology, replicas=replicas, cached=cached, **known)
    needed, available = sizes
    # A v5p has 95 GiB a core, and 4 cores with 2x2 chips.
    roomy = f"v5p:2x2x{-(-replicas // 4)}"
    raise OutOfMemory(f"{topology}: a core needs {needed / 2**30:.2f} GiB, it has {available / 2**30:.2f} GiB",
                      needed, available, functools.partial(_compile, module, graph, roomy, replicas))


def _hbm(error: str) -> tuple[int, int] | None:
    """(needed, available) bytes of an error that says that the memory is too small; units are binary."""
    size = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"\({size}\) exceeds available HBM \({size}\)", error)
    if found:
        return _bytes(found[1], found[2]), _bytes(found[3], found[4])
    # By little only: "Used 15.48G of 15.48G hbm. Exceeded hbm capacity by 2.05M."
    found = re.search(rf"of {size} hbm\. Exceeded hbm capacity by {size}\.", error)
    if found:
        available = _bytes(found[1], found[2])
        return available + _bytes(found[3], found[4]), available
    return None


def _ask_the_compiler(module: str, topology: str, replicas: int) -> dict:
    """-> fields of `Compiled`, or "error"."""
    jax = _jax_names()
    options = jax.client.CompileOptions()
    options.num_replicas, options.num_partitions = replicas, 1
    devices = jax.topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    begin = time.perf_counter()
    try:
        with jax.mlir.make_ir_context():
            program = devices[0].client.compile(jax.ir.Module.parse(module),
                                                jax.client.DeviceList(tuple(devices[:replicas])), options)
    except jax.lib.JaxRuntimeError as error:
        return {"error": " ".join(str(error).split())[:2000]}
    memory = program.get_compiled_memory_stats()
    return {"argument_bytes": memory.argument_size_in_bytes, "temporary_bytes": memory.temp_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes, "alias_bytes": memory.alias_size_in_bytes,
            "hlo": "\n".join(part.to_string() for part in program.hlo_modules()),
            "seconds": time.perf_counter() - begin}


def _bytes(number, unit):
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _read(file: Path):
    try:
        return json.loads(gzip.decompress(file.read_bytes()))
    except (FileNotFoundError, gzip.BadGzipFile, EOFError, ValueError, zlib.error):  # a spoilt file is made anew
        return None


def _write(file: Path, known: dict):
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(gzip.compress(json.dumps(known).encode(), 5))
        os.replace(name, file)
    except OSError as error:
        print(f"preflight: the result is not kept: {error}", file=sys.stderr)


def _as_on_a_tpu(operation, jax, concrete):
    """Makes of the HLO that TensorFlow lowers for a CPU what it would lower for a TPU.

    `mhlo.copy` is no StableHLO; a copy is its operand. Random bits come from the algorithm that TensorFlow takes on a
    TPU, the chip's own (tf2xla, DefaultRngAlgForDeviceType): Philox, a CPU's, costs the TPU compiler gigabytes.
    Raises PreflightError where a size is only known when it runs.
    """
    for region in operation.regions:
        for block in region.blocks:
            for item in list(block.operations):
                item = item.operation
                if any("?" in str(result.type) for result in item.results):
                    _refuse_dynamic(item, concrete)
                if item.name == "mhlo.copy":
                    item.results[0].replace_all_uses_with(item.operands[0])
                    item.erase()
                elif item.name == "stablehlo.rng_bit_generator":
                    _random_bits_of_the_chip(item, jax.hlo, jax.ir)
                else:
                    _as_on_a_tpu(item, jax, concrete)


def _refuse_dynamic(item, concrete):
    # loc("boolean_mask/Where"), or loc(fused["boolean_mask/Where", "….py":1221:0])
    named = re.search(r'"([^"]+)"(?!:\d)', str(item.location))
    name = named[1] if named else "without a name"
    raise PreflightError(f"the op {name!r} has a result whose size is known only when it runs, {item.results[0].type}; "
                         f"a TPU's shapes are static: {place(concrete.graph, name)}")


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
