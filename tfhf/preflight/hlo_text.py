"""Reads the text of an optimised HLO module, as `executable.hlo_modules()[0].to_string()` prints it for a TPU.

    ENTRY %main.1 (x: f32[512,512]) -> f32[512,512] {
      %x = f32[512,512]{1,0:T(8,128)} parameter(0)
      ROOT %y = bf16[512,512]{1,0:T(8,128)(2,1)S(1)} fusion(%x), kind=kLoop, calls=%c, metadata={op_name="layer/Tanh"}
    }

The layout names the dimensions from the minor one on, then the tiles that memory is cut into, then the memory space:
0, which is not written, is HBM; the others are on the chip. https://openxla.org/xla/tiled_layout
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Iterator

BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # the others end with their bits
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id",
        "replica-id", "domain", "add-dependency"}
_EFFECTS = {"custom-call", "infeed", "outfeed", "recv", "recv-done", "send", "send-done"}

_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([\d,]*)(?::((?:[^{}])*))?\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class HloError(ValueError):
    """The text is not such a module; the message has the line."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: its dtype, dimensions, the dimensions from the minor one on, its first tile, and its memory space."""

    dtype: str
    dimensions: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def elements(self) -> int:
        """How many, without padding."""
        return math.prod(self.dimensions)

    @property
    def bits(self) -> int:
        """Of one element."""
        if self.dtype in BITS:
            return BITS[self.dtype]
        number = re.match(r"[a-z]+(\d+)", self.dtype)  # f32, s8, c64, f8e4m3fn
        return int(number[1]) if number else 8

    @property
    def bytes(self) -> int:
        """Without padding."""
        return self.elements * self.bits // 8

    @property
    def padded_bytes(self) -> int:
        """With the padding to whole tiles, as it lies in memory."""
        sizes = [self.dimensions[index] for index in self.minor_to_major or reversed(range(len(self.dimensions)))]
        tile = self.tile[::-1]
        sizes += [1] * (len(tile) - len(sizes))
        padded = [-(-size // tile[i]) * tile[i] if i < len(tile) else size for i, size in enumerate(sizes)]
        return math.prod(padded) * self.bits // 8


@dataclasses.dataclass
class Instruction:
    """One line of a computation.

    Attributes:
        shape: a Shape, or a tuple of such.
        operands: names in the same computation. `literal`: what stands in their place, of a constant or a parameter.
        attributes: the text behind them, without the compiler's configuration.
        called: (how, computation): calls, body, condition, to_apply, branch.
        cycles: that the compiler expects it to take; 0 where it says nothing.
        trips: of a loop, where the compiler says so.
    """

    name: str
    opcode: str
    shape: Shape | tuple
    operands: tuple[str, ...]
    literal: str
    attributes: str
    called: tuple[tuple[str, str], ...]
    op_name: str
    cycles: int
    trips: int | None

    def call(self, how: str) -> str:
        """The computation that is called so."""
        return next(name for kind, name in self.called if kind == how)

    @property
    def result(self) -> Shape | tuple:
        """What it makes; of the start of an asynchronous instruction, what that will have made."""
        if self.opcode == "copy-start":  # (destination, source, context)
            return self.shape[0]
        if self.opcode.endswith("-start") and isinstance(self.shape, tuple) and isinstance(self.shape[0], tuple):
            return self.shape[1]  # ((operands), destination, context)
        return self.shape

    def attribute(self, name: str) -> str:
        """Its text without braces, "" where there is none: attribute("window") -> "size=3x3 pad=1_1x1_1"."""
        found = re.search(rf"(?:^|, ){name}=(\{{[^{{}}]*\}}|[^,]*)", self.attributes)
        return found[1].strip("{}") if found else ""


@dataclasses.dataclass
class Computation:
    """Instructions in the order they run, by name; `root` is the name of the result, `parameters` by number."""

    name: str
    instructions: dict[str, Instruction]
    root: str
    parameters: dict[int, str]

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Those that have a value as an operand, by its name."""
        found = {}
        for one in self:
            for name in dict.fromkeys(one.operands):
                found.setdefault(name, []).append(one)
        return found

    @functools.cached_property
    def live(self) -> set[str]:
        """The instructions that the result depends on, or that do something themselves. What TensorFlow lowers has
        others too, such as gradients of frozen layers, which the compiler drops."""
        found, open_ends = set(), [self.root, *(one.name for one in self if one.opcode in _EFFECTS)]
        while open_ends:
            name = open_ends.pop()
            if name not in found:
                found.add(name)
                open_ends += [operand for operand in self[name].operands if operand in self.instructions]
        return found


@dataclasses.dataclass
class Module:
    """Computations by name, and the name of the one that is run."""

    computations: dict[str, Computation]
    entry: str

    def __getitem__(self, name: str) -> Computation:
        return self.computations[name]


def leaves(shape) -> Iterator[Shape]:
    """The arrays of a shape."""
    if isinstance(shape, Shape):
        yield shape
    else:
        for part in shape:
            yield from leaves(part)


def parse(text: str) -> Module:
    """Reads a module.

    Raises:
        HloError: a line that is no instruction, or no entry.
    """
    computations, entry, current = {}, None, None
    for number, line in enumerate(text.splitlines(), 1):
        if current is None:
            begins = _COMPUTATION.match(line)
            if begins:
                current = computations[begins[2]] = Computation(begins[2], {}, "", {})
                entry = begins[2] if begins[1] else entry
        elif line.startswith("}"):
            current = None
        elif line.strip():
            found = _INSTRUCTION.match(line)
            if not found:
                raise HloError(f"line {number} of the HLO: {line.strip()[:200]!r}, expected an instruction")
            instruction = _instruction(found[2], found[3])
            current.instructions[found[2]] = instruction
            if found[1]:
                current.root = found[2]
            if instruction.opcode == "parameter":
                current.parameters[int(instruction.literal)] = found[2]
    if entry is None:
        raise HloError(f"the HLO has no ENTRY; it begins with {text[:200]!r}")
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    text = re.sub(r"/\*[^*]*\*/", "", text)
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    shape, rest = _shape(text[:end]), text[end:].lstrip()
    opcode, start = rest[:rest.index("(")], rest.index("(")
    end = _closing(rest, start)
    inside, attributes = rest[start + 1:end - 1], rest[end:].lstrip(", ")
    attributes, _, configuration = attributes.partition("backend_config=")
    cycles, trips = _CYCLES.search(configuration), _TRIPS.search(configuration)
    branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
    called = [(kind, target) for kind, target in _CALLED.findall(attributes)]
    called += [("branch", target.strip(" %")) for target in branches[1].split(",")] if branches else []
    called = [("branch" if kind.endswith("_computation") else kind, target) for kind, target in called]
    op_name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', attributes)
    literal = inside if opcode in ("constant", "parameter") else ""
    return Instruction(name, opcode, shape, () if literal else tuple(re.findall(r"%([\w.\-]+)", inside)), literal,
                       attributes, tuple(called), op_name[1] if op_name else "", int(cycles[1]) if cycles else 0,
                       int(trips[1]) if trips else None)


def _closing(text: str, start: int) -> int:
    """-> behind the parenthesis that closes the one at `start`; those in strings do not count."""
    depth = 0
    for found in re.compile(r'"(?:[^"\\]|\\.)*"|[()]').finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    raise HloError(f"{text[:200]!r}: a parenthesis does not close")


def _shape(text: str):
    if not text.startswith("("):
        return _array(text)
    parts, depth, begin = [], 0, 1
    for index, letter in enumerate(text):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if depth == 1 and letter == "," or depth == 0:
            if text[begin:index].strip():
                parts.append(_shape(text[begin:index].strip()))
            begin = index + 1
    return tuple(parts)


def _array(text: str) -> Shape:
    found = _ARRAY.match(text)
    if not found:
        return Shape(text.split("[")[0], ())
    dtype, dimensions, order, layout = found.groups()
    numbers = tuple(int(size.removeprefix("<=")) for size in dimensions.split(",") if size)
    tile = re.match(r"T\(([\d,]+)\)", layout or "")
    space = re.search(r"S\((\d+)\)", layout or "")
    return Shape(dtype, numbers, tuple(int(i) for i in (order or "").split(",") if i),
                 tuple(int(i) for i in tile[1].split(",")) if tile else (), int(space[1]) if space else 0)
