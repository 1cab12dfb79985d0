"""Frozen dataclass configs: nested, overridable from the command line, saved beside the run.

A config is a frozen dataclass that derives from `Config`. Its annotations are its types: `int`, `float`, `bool`, `str`,
`Optional[...]`, `Literal[...]`, `tuple[T, ...]`, and other configs. Whatever does not fit is an error that names the
full path of the key, what was got and what was expected; an unknown key also gets the closest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import types
import typing
from typing import Any, Literal, Sequence, Union

from tfhf.data import storage


class ConfigError(ValueError):
    """A config key or value that cannot be taken; the message names the key's full path."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of every config; subclass it with `@dataclasses.dataclass(frozen=True)`."""

    @classmethod
    def from_dict(cls, values: dict, where: str = "", **field_types: type) -> "Config":
        """Build the config from plain values, as `json.load` gives them.

        Args:
            values: a dict of field name to value; fields that are left out keep their defaults.
            where: dotted path of this config inside the whole, for the messages.
            field_types: the concrete class of a field that is annotated with a base class, for example
                `task=WhisperTaskConfig`.

        Raises:
            ConfigError: an unknown key, a missing one that has no default, or a value of another type.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{where or cls.__name__}: got {values!r}, expected the keys of {cls.__name__}")
        known = _types_of(cls)
        known.update(field_types)
        arguments = {}
        for key, value in values.items():
            path = _join(where, key)
            if key not in known:
                raise ConfigError(_unknown(path, key, known))
            arguments[key] = _check(value, known[key], path)
        for field in dataclasses.fields(cls):
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and field.name not in arguments:
                raise ConfigError(f"{_join(where, field.name)}: missing; {cls.__name__} has no default for it")
        return cls(**arguments)

    def to_dict(self) -> dict:
        """The config as plain values (dicts, lists, numbers, strings) that JSON can hold."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def override(self, assignments: Sequence[str]) -> "Config":
        """A new config with `a.b=value` assignments applied, left to right.

        The value is read by the type of the field: `true`/`false` for bool, `none` for an Optional, commas between the
        elements of a tuple.

        Raises:
            ConfigError: no `=`, an unknown key, or a value that the field's type cannot take.
        """
        config = self
        for assignment in assignments:
            path, separator, text = assignment.partition("=")
            if not separator or not path.strip():
                raise ConfigError(
                    f"override {assignment!r}: expected the form key=value, for example optimizer.beta_1=0.9"
                )
            config = config._assign(path.strip().split("."), text, "")
        return config

    def _assign(self, keys: list[str], text: str, where: str) -> "Config":
        key, path = keys[0], _join(where, keys[0])
        known = _types_of(type(self))
        if key not in known:
            raise ConfigError(_unknown(path, key, known))
        value = getattr(self, key)
        if len(keys) > 1:
            if value is None:   # an optional group begins with its defaults
                value = next((option() for option in _options(known[key]) or ()
                              if isinstance(option, type) and issubclass(option, Config)), None)
            if not isinstance(value, Config):
                raise ConfigError(f"{path}: has no keys of its own, it is {value!r}; got {path}.{'.'.join(keys[1:])}")
            new_value = value._assign(keys[1:], text, path)
        elif isinstance(value, Config):
            raise ConfigError(f"{path}: is a group; set one of its keys: {', '.join(_types_of(type(value)))}")
        else:
            new_value = _parse(text, known[key], path)
        return dataclasses.replace(self, **{key: new_value})

    def save(self, path: str | os.PathLike) -> None:
        """Write the config as JSON to a local or gs:// path."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        storage.write_bytes(path, text.encode("utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike, **field_types: type) -> "Config":
        """Read a config that `save` wrote; `field_types` as in `from_dict`.

        Raises:
            ConfigError: the file is not JSON or does not fit the config; the message names the file.
        """
        try:
            values = json.loads(storage.read_bytes(path))
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON ({error})") from error
        try:
            return cls.from_dict(values, **field_types)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def changed_keys(old: Any, new: Any, where: str = "") -> list[str]:
    """The differences of two `to_dict()` results as lines `a.b: old -> new`, in the order of the new one's keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(new) + [key for key in old if key not in new]
        lines = []
        for key in keys:
            missing = "(absent)"
            lines += changed_keys(old.get(key, missing), new.get(key, missing), _join(where, key))
        return lines
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]




def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _unknown(path: str, key: str, known: dict) -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {path[: len(path) - len(str(key))]}{close[0]}?" if close else ""
    return f"unknown config key {path}{hint} Known keys here: {', '.join(known)}"


def _types_of(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_plain(element) for element in value]
    return value


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _options(annotation: Any) -> tuple | None:
    """The members of a Union, or None where the annotation is no Union."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return None


def _check(value: Any, annotation: Any, path: str) -> Any:
    """Return `value` as the annotated type would hold it, or raise ConfigError."""
    wrong = ConfigError(f"{path}: got {value!r} ({type(value).__name__}), expected {_name(annotation)}")
    if annotation is Any:
        return value
    options = _options(annotation)
    if options is not None:
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is type(None):
                continue
            try:
                return _check(value, option, path)
            except ConfigError:
                if len([o for o in options if o is not type(None)]) == 1:
                    raise
        raise wrong
    if typing.get_origin(annotation) is Literal:
        if value not in typing.get_args(annotation):
            raise wrong
        return value
    if annotation is tuple or typing.get_origin(annotation) is tuple:
        if not isinstance(value, (list, tuple)):
            raise wrong
        elements = typing.get_args(annotation) or (Any, ...)
        if len(elements) == 2 and elements[1] is Ellipsis:
            elements = (elements[0],) * len(value)
        if len(elements) != len(value):
            raise ConfigError(f"{path}: got {len(value)} values {value!r}, expected {len(elements)}")
        return tuple(_check(v, t, f"{path}[{i}]") for i, (v, t) in enumerate(zip(value, elements)))
    if isinstance(annotation, type) and issubclass(annotation, Config):
        if isinstance(value, annotation):
            return value
        return annotation.from_dict(value, path)
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if annotation in (int, bool, str) and type(value) is annotation:
        return value
    raise wrong


def _parse(text: str, annotation: Any, path: str) -> Any:
    """Read an override's text by the annotated type."""
    options = _options(annotation)
    if options is not None:
        if text.lower() in ("none", "null") and type(None) in options:
            return None
        members = [option for option in options if option is not type(None)]
        for option in members:
            try:
                return _parse(text, option, path)
            except ConfigError:
                if len(members) == 1:
                    raise
        raise ConfigError(f"{path}: got {text!r}, expected {' or '.join(map(_name, members))}")
    if typing.get_origin(annotation) is Literal:
        matches = [choice for choice in typing.get_args(annotation) if str(choice) == text]
        if not matches:
            raise ConfigError(f"{path}: got {text!r}, expected one of {typing.get_args(annotation)}")
        return matches[0]
    if annotation is tuple or typing.get_origin(annotation) is tuple:
        parts = [part.strip() for part in text.strip().strip("()[]").split(",") if part.strip()]
        elements = typing.get_args(annotation) or (str, ...)
        if len(elements) == 2 and elements[1] is Ellipsis:
            elements = (elements[0],) * len(parts)
        if len(elements) != len(parts):
            raise ConfigError(f"{path}: got {len(parts)} values in {text!r}, expected {len(elements)}")
        return tuple(_parse(part, element, path) for part, element in zip(parts, elements))
    if annotation is bool:
        words = {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }
        if text.lower() not in words:
            raise ConfigError(f"{path}: got {text!r}, expected true or false")
        return words[text.lower()]
    if annotation in (int, float):
        try:
            return annotation(text)
        except ValueError as error:
            raise ConfigError(f"{path}: got {text!r}, expected {_name(annotation)}") from error
    if annotation in (str, Any):
        return text
    raise ConfigError(f"{path}: cannot be set from text, it is {_name(annotation)}")
