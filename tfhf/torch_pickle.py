"""A reader of pickles that runs nothing: an interpreter of the opcodes that torch.save writes.

The standard library's unpickler calls what a pickle names and sets attributes on it. Even with a list of allowed names
it leaves the classes of this process open to change, and its memo and recursion are the pickle's to size. Here a pickle
makes plain values and the four classes below. It calls nothing, sets no attribute, and hashes nothing.
"""

from __future__ import annotations

import pickletools
import struct

from tfhf.weights import WeightsError

MOST_OPCODES = 2_000_000      # a state dict of 10,000 tensors takes some 300,000
MOST_BYTES = 256_000_000      # of one pickle; tensors themselves lie outside of it
_MOST_OF_NAME = 1_000         # characters of a line that names a module
_MOST_OF_INTEGER = 64         # bytes


class Name:
    """A function or class that the pickle names; `text` is module.name."""

    __slots__ = ("text",)

    def __init__(self, text):
        self.text = text


class Call:
    """What the pickle asks to be called: nobody does."""

    __slots__ = ("name", "arguments")

    def __init__(self, name, arguments):
        self.name, self.arguments = name, arguments


class Dict:
    """A dict or OrderedDict as the (key, value) pairs in the pickle's order."""

    __slots__ = ("pairs",)

    def __init__(self, pairs=()):
        self.pairs = list(pairs)


class Reference:
    """Something that lies outside of the pickle, by its persistent id."""

    __slots__ = ("id",)

    def __init__(self, persistent_id):
        self.id = persistent_id


class Source:
    """Bytes of an open binary file, checked against how many there are before any are read."""

    def __init__(self, file, size):
        self.file, self.left = file, size

    def take(self, count):
        """The next `count` bytes.

        Raises:
            WeightsError: there are fewer.
        """
        if count > self.left:
            raise WeightsError(f"ends too early: {count} bytes are expected and {self.left} are left")
        data = self.file.read(count)
        if len(data) != count:
            raise WeightsError(f"ends too early: {count} bytes are expected and {len(data)} are left")
        self.left -= count
        return data

    def skip(self, count):
        """Passes over `count` bytes.

        Raises:
            WeightsError: there are fewer.
        """
        if count > self.left:
            raise WeightsError(f"ends too early: {count} bytes are expected and {self.left} are left")
        self.file.seek(count, 1)
        self.left -= count

    def number(self, form):
        """The next number; `form` is a format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self):
        """The text up to the next newline, which is read too."""
        data = self.file.readline(min(self.left, _MOST_OF_NAME) + 1)
        if not data.endswith(b"\n"):
            raise WeightsError(f"the pickle has a name without an end, or one of more than {_MOST_OF_NAME} bytes")
        self.left -= len(data)
        return _text(data[:-1])


def shown(text, most=80) -> str:
    """Text from a file as an error may show it: on one line, and not long."""
    text = ascii(str(text))[1:-1]
    return text if len(text) <= most else text[:most] + "…"


def kind_of(value) -> str:
    """What a value from `load` is, for errors; a value itself may be of any depth and size."""
    if isinstance(value, Call):
        return f"a {shown(value.name.text)}"
    if isinstance(value, Name):
        return f"the name {shown(value.text)}"
    return {Dict: "a dict", Reference: "a storage"}.get(type(value), f"a {type(value).__name__}")


def load(source, allowed, references=None):
    """One pickle -> its value: None, bool, int, float, str, bytes, list, tuple (sets are lists), or one of the classes
    above.

    Args:
        source: a `Source`, of which the pickle is read to its end.
        allowed: the names, as module.name, that the pickle may use.
        references: a list to which every `Reference` is appended.

    Raises:
        WeightsError: it ends too early, uses another name, does what no state dict needs, or is too large.
    """
    return _Machine(source, allowed, [] if references is None else references).run()


_DICTS = ("collections.OrderedDict", "collections.defaultdict")


def _text(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WeightsError(f"the pickle holds text that is not UTF-8: {error.reason}") from error


class _Machine:
    def __init__(self, source, allowed, references):
        self.source, self.allowed, self.references = source, allowed, references
        self.most_left = source.left - MOST_BYTES
        self.stack, self.marks, self.memo = [], [], {}

    def run(self):
        for _ in range(MOST_OPCODES):
            code = self.source.take(1)[0]
            if code == ord("."):
                return self.pop()
            handler = _HANDLERS.get(code)
            if handler is None:
                known = pickletools.code2op.get(chr(code))
                raise WeightsError(f"the pickle holds the opcode {known.name if known else code}; no state dict "
                                   "needs it")
            handler(self)
        raise WeightsError(f"the pickle has more than {MOST_OPCODES:,} opcodes")

    # The stack.

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        if not self.stack:
            raise WeightsError("the pickle takes more values than it has")
        return self.stack.pop()

    def top(self, *kinds):
        if not self.stack or not isinstance(self.stack[-1], kinds):
            found = kind_of(self.stack[-1]) if self.stack else "nothing"
            raise WeightsError(f"the pickle fills or changes {found}; expected a dict or a list")
        return self.stack[-1]

    def mark(self):
        self.marks.append(self.stack)
        self.stack = []

    def above_mark(self):
        if not self.marks:
            raise WeightsError("the pickle takes more values than it has")
        values, self.stack = self.stack, self.marks.pop()
        return values

    def drop(self):
        """POP takes a mark where no value stands above it."""
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def double(self):
        self.push(self.pop())
        self.push(self.stack[-1])

    # Numbers and text.

    def number(self, form):
        return self.source.number(form)

    def bytes_of(self, form):
        count = self.number(form)
        if count < 0:
            raise WeightsError(f"the pickle states a length of {count} bytes")
        if self.source.left - count < self.most_left:
            raise WeightsError(f"the pickle has more than {MOST_BYTES:,} bytes")
        return self.source.take(count)

    def integer(self, form):
        count = self.number(form)
        if not 0 <= count <= _MOST_OF_INTEGER:
            raise WeightsError(f"the pickle holds an integer of {count} bytes; expected at most {_MOST_OF_INTEGER}")
        self.push(int.from_bytes(self.source.take(count), "little", signed=True))

    def old_text(self, form):
        """A str of Python 2: text, or any bytes."""
        data = self.bytes_of(form)
        try:
            self.push(data.decode("utf-8"))
        except UnicodeDecodeError:
            self.push(data)

    def protocol(self):
        version = self.number("<B")
        if not 2 <= version <= 5:
            raise WeightsError(f"the pickle's protocol is {version}; expected 2 to 5")

    def frame(self):
        size = self.number("<Q")
        if size > self.source.left:
            raise WeightsError(f"ends too early: a frame of {size} bytes and {self.source.left} are left")

    # The memo, a dict: an index of a thousand million is one entry.

    def remember(self, number):
        if not self.stack:
            raise WeightsError("the pickle takes more values than it has")
        self.memo[number] = self.stack[-1]

    def recall(self, number):
        if number not in self.memo:
            raise WeightsError(f"the pickle refers to its value {number}, which it has not made")
        self.push(self.memo[number])

    # Containers.

    def new_tuple(self, count):
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def set_items(self, values):
        target = self.top(Dict)
        if len(values) % 2:
            raise WeightsError("the pickle has a dict with a key and no value")
        target.pairs.extend(zip(values[::2], values[1::2]))

    def set_item(self):
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def set_marked_items(self):
        values = self.above_mark()
        self.set_items(values)

    def append(self):
        value = self.pop()
        self.top(list).append(value)

    def append_marked(self):
        values = self.above_mark()
        self.top(list).extend(values)

    def marked_dict(self):
        values = self.above_mark()
        self.push(Dict())
        self.set_items(values)

    # Names and what is done with them.

    def name(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise WeightsError("the pickle names something that is no text")
        text = f"{module}.{name}"
        # "torch" and "_utils.x" are not "torch._utils" and "x": a dotted name reaches into a class.
        if "." in name or text not in self.allowed:
            raise WeightsError(f"the pickle names {shown(text)}; expected tensors and dicts only, such as "
                               "model.state_dict()")
        self.push(Name(text))

    def named_lines(self):
        module = self.source.line()
        self.name(module, self.source.line())

    def named_values(self):
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def call(self):
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise WeightsError(f"the pickle calls {kind_of(name)}; expected the name of what makes a tensor")
        if name.text not in _DICTS:
            self.push(Call(name, arguments))
            return
        rows = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else ()
        if not all(isinstance(row, (list, tuple)) and len(row) == 2 for row in rows):
            raise WeightsError("the pickle has an OrderedDict that is not made of pairs")
        self.push(Dict((row[0], row[1]) for row in rows))

    def build(self):
        """The state of an object: of a state dict its _metadata, which has the versions of modules."""
        state, target = self.pop(), self.top(Dict, Call)
        names = [key for key, _ in state.pairs] if isinstance(state, Dict) else []
        if isinstance(target, Dict) and names != ["_metadata"]:
            raise WeightsError("the pickle sets attributes of a dict; expected _metadata alone")

    def reference(self):
        reference = Reference(self.pop())
        self.references.append(reference)
        self.push(reference)


def _pushing(value):
    return lambda machine: machine.push(value)


def _with(method, *arguments):
    return lambda machine: method(machine, *arguments)


_HANDLERS = {ord(code) if isinstance(code, str) else code: handler for code, handler in {
    0x80: _Machine.protocol, 0x95: _Machine.frame,
    "(": _Machine.mark, "0": _Machine.drop, "1": _Machine.above_mark, "2": _Machine.double,
    "N": _pushing(None), 0x88: _pushing(True), 0x89: _pushing(False),
    "J": lambda machine: machine.push(machine.number("<i")),
    "K": lambda machine: machine.push(machine.number("<B")),
    "M": lambda machine: machine.push(machine.number("<H")),
    0x8a: _with(_Machine.integer, "<B"), 0x8b: _with(_Machine.integer, "<i"),
    "G": lambda machine: machine.push(machine.number(">d")),
    0x8c: lambda machine: machine.push(_text(machine.bytes_of("<B"))),
    "X": lambda machine: machine.push(_text(machine.bytes_of("<I"))),
    0x8d: lambda machine: machine.push(_text(machine.bytes_of("<Q"))),
    "U": _with(_Machine.old_text, "<B"), "T": _with(_Machine.old_text, "<i"),
    "C": lambda machine: machine.push(machine.bytes_of("<B")),
    "B": lambda machine: machine.push(machine.bytes_of("<I")),
    0x8e: lambda machine: machine.push(machine.bytes_of("<Q")),
    0x96: lambda machine: machine.push(machine.bytes_of("<Q")),
    "q": lambda machine: machine.remember(machine.number("<B")),
    "r": lambda machine: machine.remember(machine.number("<I")),
    0x94: lambda machine: machine.remember(len(machine.memo)),
    "h": lambda machine: machine.recall(machine.number("<B")),
    "j": lambda machine: machine.recall(machine.number("<I")),
    "}": lambda machine: machine.push(Dict()), "d": _Machine.marked_dict,
    "s": _Machine.set_item, "u": _Machine.set_marked_items,
    "]": lambda machine: machine.push([]), "l": lambda machine: machine.push(machine.above_mark()),
    "a": _Machine.append, "e": _Machine.append_marked,
    0x8f: lambda machine: machine.push([]), 0x90: _Machine.append_marked,
    0x91: lambda machine: machine.push(machine.above_mark()),
    ")": _pushing(()), "t": lambda machine: machine.push(tuple(machine.above_mark())),
    0x85: _with(_Machine.new_tuple, 1), 0x86: _with(_Machine.new_tuple, 2), 0x87: _with(_Machine.new_tuple, 3),
    "c": _Machine.named_lines, 0x93: _Machine.named_values,
    "R": _Machine.call, 0x81: _Machine.call, "b": _Machine.build, "Q": _Machine.reference,
}.items()}
