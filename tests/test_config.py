"""Configs: overrides, unknown keys, types, saving."""

import dataclasses
from typing import Literal, Optional

import pytest

from tfhf.config import Config, ConfigError, changed_keys


@dataclasses.dataclass(frozen=True)
class Inner(Config):
    rate: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.999)
    name: str = "adamw"


@dataclasses.dataclass(frozen=True)
class Outer(Config):
    steps: int
    inner: Inner = Inner()
    anything: Config = Inner()
    limit: Optional[int] = None
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    size: tuple[int, int] = (1, 2)


def test_overrides_are_read_by_type():
    config = Outer(steps=1).override(
        ["steps=1_000", "inner.rate=1e-3", "inner.betas=0.5,0.25", "limit=7", "flag=true", "mode=b", "size=(3, 4)"]
    )
    assert config == Outer(1000, Inner(1e-3, (0.5, 0.25)), Inner(), 7, True, "b", (3, 4))
    assert config.override(["limit=none"]).limit is None
    assert config.override(["inner.betas="]).inner.betas == ()
    # A field annotated with the base class takes the keys of the value it holds.
    assert config.override(["anything.rate=2"]).anything == Inner(rate=2.0)
    assert config.override(["inner.name=a=b"]).inner.name == "a=b"


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("inner.rat=1", ["inner.rat", "did you mean inner.rate?", "betas"]),
        ("stepz=1", ["stepz", "did you mean steps?"]),
        ("steps=1.5", ["steps", "'1.5'", "int"]),
        ("steps=none", ["steps", "int"]),
        ("inner.rate=fast", ["inner.rate", "'fast'", "float"]),
        ("flag=maybe", ["flag", "true or false"]),
        ("mode=c", ["mode", "'c'", "('a', 'b')"]),
        ("size=1,2,3", ["size", "3 values", "expected 2"]),
        ("inner=3", ["inner", "group", "rate"]),
        ("steps.more=3", ["steps", "no keys"]),
        ("steps", ["key=value"]),
    ],
)
def test_bad_overrides_name_the_key(assignment, words):
    with pytest.raises(ConfigError) as error:
        Outer(steps=1).override([assignment])
    for word in words:
        assert word in str(error.value)


@dataclasses.dataclass(frozen=True)
class Optionally(Config):
    inner: Inner | None = None
    limit: int | None = None


def test_a_group_that_may_be_none_begins_with_its_defaults(tmp_path):
    config = Optionally().override(["inner.rate=2"])
    assert config.inner == Inner(rate=2.0)
    for one in (config, Optionally()):
        one.save(tmp_path / "config.json")
        assert Optionally.load(tmp_path / "config.json") == one
    with pytest.raises(ConfigError, match="limit: has no keys of its own, it is None"):
        Optionally().override(["limit.more=1"])
    with pytest.raises(ConfigError, match="inner.rat; did you mean inner.rate?"):
        Optionally().override(["inner.rat=1"])


def test_save_and_load(tmp_path):
    config = Outer(3, Inner(0.2, (0.1,)), Inner(name="x"), 5, True, "b")
    config.save(tmp_path / "config.json")
    assert Outer.load(tmp_path / "config.json", anything=Inner) == config


@pytest.mark.parametrize(
    "values, words",
    [
        ({"steps": 1, "inner": {"rat": 1}}, ["inner.rat", "inner.rate"]),
        ({"steps": True}, ["steps", "True", "int"]),
        ({"steps": 1, "inner": {"betas": [0.1, "x"]}}, ["inner.betas[1]", "'x'", "float"]),
        ({"steps": 1, "limit": "x"}, ["limit", "'x'", "int"]),
        ({"steps": 1, "inner": 4}, ["inner", "4"]),
        ({}, ["steps", "missing"]),
    ],
)
def test_bad_values_name_the_key(values, words):
    with pytest.raises(ConfigError) as error:
        Outer.from_dict(values)
    for word in words:
        assert word in str(error.value)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": 1,')
    with pytest.raises(ConfigError, match="config.json: not JSON"):
        Outer.load(tmp_path / "config.json")


def test_changed_keys():
    old, new = Outer(1).to_dict(), Outer(2, Inner(rate=0.3)).to_dict()
    assert changed_keys(old, new) == ["steps: 1 -> 2", "inner.rate: 0.1 -> 0.3"]
    assert changed_keys(new, new) == []
