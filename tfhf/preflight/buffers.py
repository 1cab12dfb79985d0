"""What lies in HBM when an optimised HLO program needs most of it: which op made each allocation, and how large it is.

The text of the module is a schedule; from it follows when each value is made and used last. The compiler's own sum
(`Compiled.total_bytes`) is exact and larger, by some percent in programs of gigabytes and more in small ones: packing
leaves gaps. What is here serves to name what is large.
"""

from __future__ import annotations

import dataclasses

from tfhf.preflight.hlo import op_name
from tfhf.preflight.hlo_text import Computation, Instruction, Module, Shape, leaves, parse

# Their result is their operand, or has its place.
_IN_PLACE = {"bitcast", "dynamic-update-slice", "scatter", "opt-barrier", "optimization-barrier", "add-dependency"}


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One allocation in HBM.

    Attributes:
        bytes: tiles' padding included.
        op_name: TensorFlow's name of the op that makes it.
        what: "argument" or "temporary" (the results of the program are among the latter), and dtype and shape.
    """

    bytes: int
    op_name: str
    what: str


def buffers(text: str) -> tuple[Buffer, ...]:
    """What lies in HBM when memory is fullest, largest first.

    Args:
        text: an optimised, scheduled HLO module.

    Raises:
        tfhf.preflight.hlo_text.HloError: it is no such text.
    """
    module = parse(text)
    entry = module[module.entry]
    arguments = [_buffer(entry, entry[name], shape, "argument") for name in entry.parameters.values()
                 for shape in leaves(entry[name].shape) if shape.space == 0]
    fullest = arguments + _fullest(module, entry)[1]
    return tuple(sorted(fullest, key=lambda buffer: -buffer.bytes))


def _buffer(computation: Computation, one: Instruction, shape: Shape, kind: str) -> Buffer:
    return Buffer(shape.padded_bytes, op_name(computation, one),
                  f"{kind} {shape.dtype}[{','.join(str(size) for size in shape.dimensions)}]")


def _fullest(module: Module, computation: Computation) -> tuple[int, list[Buffer]]:
    """-> the most bytes of temporaries at one time, and what they are. Parameters are the caller's."""
    made, values = {}, {}  # number of the buffer -> Buffer; name -> numbers (nested as the shape's tuples are)
    ends = {}              # number of the buffer -> the last instruction that needs it
    for position, one in enumerate(computation):
        values[one.name] = _value(module, computation, one, values, made)
        for name in one.operands:
            ends.update((number, position) for number in _flat(values[name]))
        ends.update((number, max(position, ends.get(number, 0))) for number in _flat(values[one.name]))
    loop_state = set(_flat(values[computation.root]))
    ends.update((number, len(made) + len(values)) for number in loop_state)
    if computation.name != module.entry:
        # What a loop's body hands on lies where the loop's state does, and that is the caller's.
        for number in loop_state & set(made):
            made[number] = None
    change = [0] * (len(values) + 1)
    for number, buffer in made.items():
        if buffer:
            change[number[0]] += buffer.bytes
            change[min(ends[number], len(values) - 1) + 1] -= buffer.bytes
    most, when, inside, size = -1, 0, [], 0
    for position, one in enumerate(computation):
        size += change[position]
        inner, what = _within(module, one)
        if size + inner > most:
            most, when, inside = size + inner, position, what
    return most, inside + [buffer for number, buffer in made.items() if buffer and number[0] <= when <= ends[number]]


def _within(module: Module, one: Instruction) -> tuple[int, list[Buffer]]:
    """-> what the computations that an instruction runs need at most."""
    targets = [name for how, name in one.called if how in ("body", "branch")
               or how == "calls" and one.opcode == "call"]
    return max((_fullest(module, module[name]) for name in targets), key=lambda found: found[0], default=(0, []))


def _flat(value):
    if isinstance(value, list):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _value(module, computation, one, values, made):
    """-> the buffers of a result; new ones are put into `made`."""
    operands = [values[name] for name in one.operands]
    if one.opcode == "tuple":
        return operands
    if one.opcode == "get-tuple-element":
        whole = operands[0]
        return whole[int(one.attribute("index"))] if isinstance(whole, list) else whole
    if one.opcode == "sort":
        return operands if isinstance(one.shape, tuple) else operands[0]
    if one.opcode == "while" or one.opcode in _IN_PLACE or one.opcode.endswith("-done"):
        return operands[0]
    position = len(values)
    aliases = _aliases(module, one) if one.opcode == "fusion" else {}

    def fresh(shape, leaf):
        if isinstance(shape, tuple):
            return [fresh(part, f"{leaf}.{index}" if leaf else str(index)) for index, part in enumerate(shape)]
        if leaf in aliases:
            return operands[aliases[leaf]]
        number = (position, leaf)
        if shape.space == 0 and one.opcode not in ("parameter", "constant"):
            made[number] = _buffer(computation, one, shape, "temporary")
        return number

    return fresh(one.result, "")  # of the start of a copy its destination, which is then what "-done" gives


def _aliases(module: Module, one: Instruction) -> dict[str, int]:
    """-> for each result of a fusion that is an operand updated in place, the operand's number."""
    fused = module[one.call("calls")]
    numbers = {name: number for number, name in fused.parameters.items()}
    root = fused[fused.root]
    results = enumerate(root.operands) if root.opcode == "tuple" else [("", root.name)]
    found = {}
    for leaf, name in results:
        while fused[name].opcode in ("bitcast", "dynamic-update-slice", "scatter"):
            name = fused[name].operands[0]
        if name in numbers:
            found[str(leaf)] = numbers[name]
    return found
