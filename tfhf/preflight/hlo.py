"""What one run of an optimised HLO program costs a core: FLOP, bytes, all-reduce and padding, loops by their trips.

The compiler's own `cost_analysis()` counts the body of a loop once. Here every instruction counts as often as the loops
around it run. Products and convolutions are counted from their shapes, also inside fusions; positions of a window that
lie in padding or between dilated elements are no arithmetic, as in XLA (xla/service/hlo_cost_analysis.cc). Bytes are
what instructions outside of fusions read from and write to HBM, tiles' padding included: a fusion reads its operands
and writes its results once, slices touch only what they slice, updates in place only what they update. Of a
conditional's branches the one with the most bytes counts; what a custom call computes is not known, only its bytes are.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re

import numpy as np

from tfhf.preflight.hlo_loops import Scope, trips
from tfhf.preflight.hlo_text import FREE, Computation, Instruction, leaves, parse

TRANSCENDENTAL = {"exponential", "exponential-minus-one", "log", "log-plus-one", "logistic", "tanh", "tan", "sine",
                  "cosine", "erf", "power", "rsqrt", "sqrt", "cbrt", "atan2"}
ELEMENTWISE = {"abs", "add", "and", "ceil", "clamp", "compare", "divide", "floor", "maximum", "minimum", "multiply",
               "negate", "not", "or", "remainder", "round-nearest-afz", "round-nearest-even", "select", "shift-left",
               "shift-right-arithmetic", "shift-right-logical", "sign", "subtract", "xor"}
_SLICES = {"dynamic-slice", "gather", "slice"}        # touch of their operand what they give
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # touch of their operand what the operand of that number has
COLLECTIVES = {"all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"}


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of one core for one run of the program.

    Attributes:
        flops: of matrix products and convolutions; a multiply-add is 2.
        elementwise: other arithmetic, one per element (of what is reduced, one per element that goes in).
        transcendentals: elements of exp, log, tanh and their like.
        bytes: read from and written to HBM.
        all_reduce_bytes: of what the cores sum; of a reduce-scatter, an all-gather and the like half, since these send
            half of what an all-reduce does.
        padded_share: of the bytes of the products' operands in their tiles, the share that is padding: 0 to 1.
        cycles: the compiler's own estimate of the core's cycles.
        flops_by_name, bytes_by_name, padding_by_name: (op name, amount) largest first; op names are TensorFlow's paths
            of layers. The last: bytes of padding in operands of products.
        loops: (op name, trips) of each loop, as often as it is entered from a different place.
        unknown_loops: op names of the loops whose number of trips depends on data; they are counted at their bound,
            which is then said ("… at most 448"), or once.
    """

    flops: float
    elementwise: float
    transcendentals: float
    bytes: float
    all_reduce_bytes: float
    padded_share: float
    cycles: float
    flops_by_name: tuple[tuple[str, float], ...]
    bytes_by_name: tuple[tuple[str, float], ...]
    padding_by_name: tuple[tuple[str, float], ...]
    loops: tuple[tuple[str, int], ...]
    unknown_loops: tuple[str, ...]


def costs(text: str) -> Costs:
    """Counts an optimised HLO module.

    Args:
        text: as `hlo_modules()[0].to_string()` prints it.

    Raises:
        tfhf.preflight.hlo_text.HloError: it is no such text.
    """
    module = parse(text)
    total = _Total()
    _run(Scope(module, module[module.entry]), 1, total)
    tiles = total["tiles"]
    return Costs(flops=total["flops"], elementwise=total["elementwise"], transcendentals=total["transcendentals"],
                 bytes=total["bytes"], all_reduce_bytes=total["all_reduce_bytes"],
                 padded_share=total["padding"] / tiles if tiles else 0.0, cycles=total["cycles"],
                 flops_by_name=total.largest("flops"), bytes_by_name=total.largest("bytes"),
                 padding_by_name=total.largest("padding"), loops=tuple(total.loops),
                 unknown_loops=tuple(dict.fromkeys(total.unknown)))


class _Total:
    """Amounts by kind and name, and the loops that were met."""

    def __init__(self):
        self.amounts = collections.defaultdict(collections.Counter)
        self.loops, self.unknown = [], []

    def add(self, kind, name, amount):
        if amount:
            self.amounts[kind][name] += amount

    def __getitem__(self, kind):
        return float(sum(self.amounts[kind].values()))

    def largest(self, kind):
        return tuple((name, float(amount)) for name, amount in self.amounts[kind].most_common())

    def take(self, other: "_Total"):
        for kind, counter in other.amounts.items():
            self.amounts[kind].update(counter)
        self.loops += other.loops
        self.unknown += other.unknown


def _run(scope: Scope, times: int, total: _Total) -> None:
    """Adds what the instructions of a computation cost when it runs `times` times."""
    for one in scope.computation:
        if one.opcode in FREE or one.name not in scope.computation.live:
            continue
        name = op_name(scope.computation, one)
        total.add("cycles", name, times * one.cycles)
        if one.opcode == "while":
            many, bound = trips(scope, one)
            if many is None:
                total.unknown.append(f"{name} at most {bound}" if bound else name)
                many = bound or 1
            total.loops.append((name, many))
            _run(scope.loop(one, one.call("body")), times * many, total)
            _run(scope.loop(one, one.call("condition")), times * many, total)
        elif one.opcode == "conditional":
            branches = []
            for number, (_, target) in enumerate(one.called):
                branches.append(_Total())
                _run(scope.inside(target, one.operands[number + 1:number + 2]), times, branches[-1])
            total.take(max(branches, key=lambda branch: branch["bytes"]))
        elif one.opcode == "call" or one.opcode == "async-start":
            _run(scope.inside(one.called[0][1], one.operands), times, total)
        else:
            total.add("bytes", name, times * _bytes(scope, one))
            _arithmetic(scope, one, name, times, total)


def _arithmetic(scope: Scope, one: Instruction, name: str, times: int, total: _Total, fused: bool = False) -> None:
    """What an instruction computes and sends, and what is fused in it does."""
    computation = scope.computation
    kind = one.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
        whole = max(_operand_bytes(computation, one, False), sum(part.padded_bytes for part in leaves(one.result)))
        # The compiler writes a reduce-scatter and an all-gather as a fusion around an all-reduce.
        half = fused or kind != "all-reduce"
        total.add("all_reduce_bytes", name, times * whole / (2 if half else 1))
    elif one.opcode == "fusion":
        inner = scope.inside(one.call("calls"), one.operands)
        for part in inner.computation:
            _arithmetic(inner, part, plain(part.op_name) or name, times, total, True)
    elif one.opcode in ("dot", "convolution"):
        total.add("flops", name, times * (_dot if one.opcode == "dot" else _convolution)(computation, one))
        for operand in one.operands:
            shape = computation[operand].shape
            total.add("tiles", name, times * shape.padded_bytes)
            total.add("padding", name, times * (shape.padded_bytes - shape.bytes))
    elif one.opcode in TRANSCENDENTAL:
        total.add("transcendentals", name, times * one.shape.elements)
    elif one.opcode in ELEMENTWISE:
        total.add("elementwise", name, times * one.shape.elements)
    elif one.opcode in ("reduce", "reduce-window"):
        total.add("elementwise", name, times * next(leaves(computation[one.operands[0]].shape)).elements)
    elif one.opcode == "fft":
        length = math.prod(int(size) for size in one.attribute("fft_length").split(","))
        total.add("elementwise", name, times * 5 * one.shape.elements * math.log2(length))


def _dot(computation: Computation, one: Instruction) -> int:
    left = computation[one.operands[0]].shape
    contracted = [left.dimensions[int(i)] for i in one.attribute("lhs_contracting_dims").split(",") if i]
    return 2 * one.shape.elements * math.prod(contracted)


def _convolution(computation: Computation, one: Instruction) -> int:
    """2 × products: per output feature and example, input features of its group × positions that hit an element."""
    left, kernel = (computation[operand].shape for operand in one.operands[:2])
    inputs, rest = one.attribute("dim_labels").split("_")
    kernels, outputs = rest.split("->")
    window = {key: value.split("x") for key, _, value in
              (item.partition("=") for item in one.attribute("window").split())}
    positions = 1
    for number, size in enumerate(window.get("size", [])):
        low = int(window["pad"][number].split("_")[0]) if "pad" in window else 0
        stride, spread, dilate = (int(window[key][number]) if key in window else 1
                                  for key in ("stride", "lhs_dilate", "rhs_dilate"))
        positions *= _hits(left.dimensions[inputs.index(str(number))], int(size),
                           one.shape.dimensions[outputs.index(str(number))], stride, low, spread, dilate)
    examples = one.shape.dimensions[outputs.index("b")]
    return (2 * examples * one.shape.dimensions[outputs.index("f")] * kernel.dimensions[kernels.index("i")] * positions)


@functools.cache
def _hits(base, size, out, stride, low, spread, dilate) -> int:
    """Pairs of an output and a kernel position that meet an element of the base; these stand `spread` apart."""
    hits = 0
    for position in range(min(size, out)):  # the shorter one in Python, the longer one at once
        if size <= out:
            at = np.arange(out) * stride + position * dilate - low
        else:
            at = position * stride + np.arange(size) * dilate - low
        hits += int(np.count_nonzero((at >= 0) & (at <= (base - 1) * spread) & (at % spread == 0)))
    return hits


def _bytes(scope: Scope, one: Instruction) -> int:
    """Read from and written to HBM by an instruction outside of fusions."""
    computation = scope.computation
    kind = one.opcode.removesuffix("-start")
    if kind.endswith("-done") or 'custom_call_target="AllocateBuffer"' in one.attributes:
        return 0
    if kind == "fusion":
        inner = scope.module[one.call("calls")]
        read = sum(min(_hbm(computation[operand].shape), _reads(scope, inner, inner.parameters[number]))
                   for number, operand in enumerate(one.operands))
        return read + _writes(scope, inner)
    if kind in _SLICES:
        touched = sum(shape.padded_bytes for shape in leaves(one.result))
        return (touched if _hbm(computation[one.operands[0]].shape) else 0) + _hbm(one.result)
    if kind in _UPDATES:
        return 2 * computation[one.operands[_UPDATES[kind]]].shape.padded_bytes
    return _operand_bytes(computation, one, True) + _hbm(one.result)


def _operand_bytes(computation: Computation, one: Instruction, in_hbm: bool) -> int:
    shapes = [shape for operand in one.operands for shape in leaves(computation[operand].shape)]
    return sum(shape.padded_bytes for shape in shapes if not in_hbm or shape.space == 0)


def _hbm(shape) -> int:
    return sum(part.padded_bytes for part in leaves(shape) if part.space == 0)


def _reads(scope: Scope, fused: Computation, name: str, handed_out: int = 0) -> int:
    """How many bytes of the value `name` a fusion reads; `handed_out`: of its result, by what is around it."""
    read, whole = 0, sum(part.padded_bytes for part in leaves(fused[name].shape))
    if name == fused.root:
        read += handed_out
    for user in fused.users.get(name, ()):
        first = user.operands[0] == name
        if user.opcode == "bitcast":
            read += _reads(scope, fused, user.name, handed_out)
        elif user.opcode == "fusion":
            inner, result = scope.module[user.call("calls")], _reads(scope, fused, user.name, handed_out)
            read += sum(_reads(scope, inner, inner.parameters[number], result)
                        for number, operand in enumerate(user.operands) if operand == name)
        elif user.opcode in _SLICES and first:
            read += user.shape.padded_bytes
        elif user.opcode in _UPDATES and first and _is_result(fused, user.name):
            # A scatter adds to what is there; an update only writes.
            read += fused[user.operands[2]].shape.padded_bytes if user.opcode == "scatter" else 0
        elif user.opcode != "tuple":
            return whole
    return min(read, whole)


def _writes(scope: Scope, fused: Computation) -> int:
    root = fused[fused.root]
    results = root.operands if root.opcode == "tuple" else [root.name]
    written = 0
    for name in results:
        shape = fused[name].shape
        if not _hbm(shape):
            continue
        while fused[name].opcode == "bitcast":
            name = fused[name].operands[0]
        source = fused[name]
        if source.opcode == "fusion":
            written += _writes(scope, scope.module[source.call("calls")])
        elif source.opcode in _UPDATES:
            written += fused[source.operands[_UPDATES[source.opcode]]].shape.padded_bytes
        elif source.opcode != "parameter":
            written += _hbm(shape)
    return written


def _is_result(fused: Computation, name: str) -> bool:
    """Is the value only handed out of the fusion?"""
    if name == fused.root:
        return True
    return all(user.opcode in ("bitcast", "tuple") and _is_result(fused, user.name)
               for user in fused.users.get(name, ()))


def op_name(computation: Computation, one: Instruction) -> str:
    """TensorFlow's name of an instruction; of one without a name, what it reads, or what reads it."""
    if one.op_name:
        return plain(one.op_name)
    source = user = one
    for _ in range(8):  # through copies of copies
        if not source.operands or source.op_name:
            break
        source = computation[source.operands[0]]
    if source.op_name:
        return f"{one.opcode} of {plain(source.op_name)}"
    for _ in range(8):
        users = computation.users.get(user.name)
        if not users or user.op_name:
            break
        user = users[0]
    return f"{one.opcode} for {plain(user.op_name)}" if user.op_name else f"({one.opcode})"


def plain(name: str) -> str:
    """An op name without the calls of functions that lead to it: "call.48/encoder/Less" -> "encoder/Less"."""
    return re.sub(r"\bcall\.\d+/", "", name)
