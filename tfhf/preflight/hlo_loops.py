"""How often a loop of an HLO program runs: from its condition's bound, its counter's start and step.

    while (i < 50) with i from 0 in steps of 1, where the three numbers may be constants, copies of constants, elements
    of tuples, fused, or handed through the loops around it.
"""

from __future__ import annotations

import dataclasses

from tfhf.preflight.hlo_text import Computation, Instruction, Module

_SAME_VALUE = {"bitcast", "copy", "convert", "reshape", "copy-done", "opt-barrier", "optimization-barrier"}


@dataclasses.dataclass(frozen=True)
class Scope:
    """A computation where it is called: `arguments` of a fusion or a call, or `caller`, the loop that it is of."""

    module: Module
    computation: Computation
    arguments: tuple = ()
    outer: "Scope | None" = None
    caller: Instruction | None = None

    def inside(self, target: str, operands: tuple[str, ...]) -> "Scope":
        """The scope of a computation that an instruction here calls with these operands."""
        return Scope(self.module, self.module[target], tuple((self, operand) for operand in operands), self)

    def loop(self, instruction: Instruction, target: str) -> "Scope":
        """The scope of the body or the condition of a loop here."""
        return Scope(self.module, self.module[target], (), self, instruction)


@dataclasses.dataclass(frozen=True)
class _Element:
    """Element `index` of what a loop carries, in the scope of its body or condition."""

    scope: Scope
    index: int


def trips(scope: Scope, loop: Instruction) -> tuple[int | None, int | None]:
    """-> (how often it runs or None, an upper bound or None)."""
    if loop.trips is not None:
        return loop.trips, loop.trips
    condition = scope.loop(loop, loop.call("condition"))
    tests = _tests(condition, condition.computation.root)
    counts = [_count(scope, loop, *test) if test else None for test in tests]
    found = [count for count in counts if count is not None]
    bound = min(found) if found else None
    return (bound if None not in counts else None), bound


def _tests(scope: Scope, name: str) -> list:
    """-> (scope, left, right, direction) of each comparison that must hold; None for what is none."""
    where, found = _walk(scope, name)
    if isinstance(found, Instruction) and found.opcode == "and":
        return _tests(where, found.operands[0]) + _tests(where, found.operands[1])
    if isinstance(found, Instruction) and found.opcode == "compare":
        return [(where, *found.operands, found.attribute("direction"))]
    return [None]


def _count(outer: Scope, loop: Instruction, scope: Scope, left: str, right: str, direction: str) -> int | None:
    where, counter = _walk(scope, left)
    limit = _value(scope, right)
    if not isinstance(counter, _Element):
        # The counter on the right: 50 > i.
        where, counter = _walk(scope, right)
        limit = _value(scope, left)
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if not isinstance(counter, _Element) or limit is None:
        return None
    start = _value_of_element(outer, loop.operands[0], counter.index)
    body = outer.loop(loop, loop.call("body"))
    step = _step(body, *_element(body, body.computation.root, counter.index), counter.index)
    if start is None or not step:
        return None
    if direction in ("LE", "GE"):
        limit += 1 if direction == "LE" else -1
    elif direction not in ("LT", "GT", "NE"):
        return None
    distance = limit - start
    return max(0, -(-distance // step)) if (distance > 0) == (step > 0) or distance == 0 else 0


def _walk(scope: Scope, name: str):
    """Follows a value through copies, tuples and fusions to the scope and the instruction that makes it, or to an
    element of what the loop of that scope carries."""
    while True:
        one = scope.computation[name]
        if one.opcode in _SAME_VALUE:
            name = one.operands[0]
        elif one.opcode in ("fusion", "call"):
            scope = scope.inside(one.called[0][1], one.operands)
            name = scope.computation.root
        elif one.opcode == "parameter" and scope.arguments:
            scope, name = scope.arguments[int(one.literal)]
        elif one.opcode == "get-tuple-element":
            index = int(one.attribute("index"))
            where, source = _walk(scope, one.operands[0])
            if isinstance(source, Instruction) and source.opcode == "tuple":
                scope, name = where, source.operands[index]
            elif isinstance(source, Instruction) and source.opcode == "parameter" and where.caller:
                return where, _Element(where, index)
            else:
                return scope, one
        else:
            return scope, one


def _element(scope: Scope, name: str, index: int):
    """-> (scope, name) of an element of a tuple, name None where the tuple is not made in sight."""
    where, source = _walk(scope, name)
    if isinstance(source, Instruction) and source.opcode == "tuple":
        return where, source.operands[index]
    return where, None


def _value(scope: Scope, name: str) -> int | None:
    where, found = _walk(scope, name)
    if isinstance(found, _Element):
        # Handed through unchanged from before the loop.
        body = where.outer.loop(where.caller, where.caller.call("body"))
        inside, same = _element(body, body.computation.root, found.index)
        _, passed = _walk(inside, same) if same else (None, None)
        if isinstance(passed, _Element) and passed.index == found.index:
            return _value_of_element(where.outer, where.caller.operands[0], found.index)
        return None
    if found.opcode == "constant" and found.literal.lstrip("-").isdigit():
        return int(found.literal)
    if found.opcode in ("add", "subtract", "multiply"):
        left, right = (_value(where, operand) for operand in found.operands)
        if left is None or right is None:
            return None
        return {"add": left + right, "subtract": left - right, "multiply": left * right}[found.opcode]
    return None


def _value_of_element(scope: Scope, name: str, index: int) -> int | None:
    where, element = _element(scope, name, index)
    return None if element is None else _value(where, element)


def _step(body: Scope, scope: Scope, name: str | None, index: int) -> int | None:
    """By how much the body moves its element `index`."""
    if name is None:
        return None
    where, found = _walk(scope, name)
    if isinstance(found, _Element):
        return 0 if found.index == index else None
    if found.opcode in ("add", "subtract"):
        for moved, by in (found.operands, found.operands[::-1]):
            before, value = _step(body, where, moved, index), _value(where, by)
            if before is not None and value is not None and (found.opcode == "add" or moved == found.operands[0]):
                return before + value if found.opcode == "add" else before - value
    return None
