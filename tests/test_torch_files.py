"""Torch's files without torch: both layouts as torch writes them, and what a pickle must not do."""

import argparse
import collections
import io
import os
import pickle
import random
import struct
import tracemalloc
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tfhf.torch_files import read_tensors, read_torch
from tfhf.weights import WeightsError


def _state():
    torch = pytest.importorskip("torch", reason="it writes the files")
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    state = {"whole": whole, "view": whole[1:3, ::2], "turned": whole.T, "half": whole.half(), "scalar": whole[0, 0],
             "brain": whole.bfloat16(), "count": torch.tensor(7), "flags": torch.tensor([True, False]),
             "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(whole + 1), "bytes": torch.arange(5).byte()}
    return torch, state


@pytest.mark.parametrize("zipped", [True, False])
def test_both_layouts(tmp_path, zipped):
    torch, state = _state()
    torch.save(state, tmp_path / "state.pth", _use_new_zipfile_serialization=zipped)
    read = read_torch(tmp_path / "state.pth")
    assert list(read) == list(state)
    for name, value in state.items():
        value = value.detach()
        assert read[name].shape == tuple(value.shape), name
        np.testing.assert_array_equal(read[name].astype("float32"), value.float().numpy(), err_msg=name)
    assert read["count"].dtype == np.int64 and read["flags"].dtype == bool and read["half"].dtype == np.float16


def test_a_module_of_torch(tmp_path):
    torch, _ = _state()
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    torch.save(module.state_dict(), tmp_path / "module.pt")   # an OrderedDict with metadata
    assert set(read_tensors(tmp_path)) == {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean",
                                           "1.running_var"}


class _Evil:
    def __reduce__(self):
        return os.system, ("echo harm",)


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"weight": _Evil()}, protocol=2))
    with pytest.raises(WeightsError, match=r"evil.pth: the pickle names (posix|nt).system; expected tensors"):
        read_torch(path)


def test_damaged_files(tmp_path):
    torch, state = _state()
    torch.save(state, tmp_path / "state.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "state.pth").read_bytes()
    for cut in (0, 1, 20, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.pth").write_bytes(data[:cut])
        with pytest.raises(WeightsError, match="cut.pth"):
            read_torch(tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_bytes(b"no file of torch at all")
    with pytest.raises(WeightsError, match="text.pth"):
        read_torch(tmp_path / "text.pth")
    torch.save({"epoch": 3, "models": [state]}, tmp_path / "nested.pth")
    with pytest.raises(WeightsError, match="nested.pth: holds epoch, models; expected a state dict"):
        read_torch(tmp_path / "nested.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_the_state_dict_of_a_training_checkpoint(tmp_path, zipped, capsys):
    torch, state = _state()
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": optimizer.state_dict(), "best": None,
                  "scores": [np.float64(0.5), {1, 2}], "state_dict": {f"module.{k}": v for k, v in state.items()},
                  "scheduler": collections.Counter({3: 1}), "rng": torch.get_rng_state(), "shape": torch.Size([1, 2])}
    torch.save(checkpoint, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    read = read_torch(tmp_path / "last.pth")
    assert set(read) == {"module." + name for name in state}
    np.testing.assert_array_equal(read["module.turned"], state["turned"].numpy())
    assert "took the state dict state_dict of epoch, args, optimizer" in capsys.readouterr().err
    torch.save({**checkpoint, "ema": state}, tmp_path / "two.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="two.pth: holds several state dicts, state_dict, ema"):
        read_torch(tmp_path / "two.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path, protocol):
    torch, state = _state()
    for zipped in (True, False):
        torch.save(collections.OrderedDict(state), tmp_path / "state.pth", pickle_protocol=protocol,
                   _use_new_zipfile_serialization=zipped)
        read = read_torch(tmp_path / "state.pth")
        np.testing.assert_array_equal(read["view"], state["view"].numpy())
        assert read["brain"].dtype == ml_dtypes.bfloat16


def test_tensors_of_other_kinds(tmp_path):
    torch, _ = _state()
    attributed = torch.arange(3.0)
    attributed.tag = "mine"   # torch writes it by another function
    state = {"attributed": attributed, "complex": torch.ones(2, dtype=torch.complex64) * 1j,
             "eight": torch.ones(2).to(torch.float8_e4m3fn), "unsigned": torch.ones(2).to(torch.uint16),
             "row": torch.ones(1, 3).expand(4, 3), "double": torch.ones(2).double(),
             "channels": torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)}
    torch.save(state, tmp_path / "state.pth")
    read = read_torch(tmp_path / "state.pth")
    for name, value in state.items():
        assert read[name].shape == tuple(value.shape)
        np.testing.assert_array_equal(read[name].astype("complex64"), value.to(torch.complex64).numpy(), err_msg=name)


def test_tensors_that_share_a_storage_are_not_copied(tmp_path):
    torch, _ = _state()
    tied = torch.arange(1000.0)
    torch.save({"a": tied, "b": tied.view(10, 100), "c": tied[5:]}, tmp_path / "tied.pth")
    read = read_torch(tmp_path / "tied.pth")
    assert np.shares_memory(read["a"], read["b"]) and np.shares_memory(read["a"], read["c"])
    with pytest.raises(ValueError, match="read-only"):
        read["a"][0] = 1.0


def test_a_view_that_leads_out_of_its_storage_is_refused():
    from tfhf.torch_files import _Storage, _View

    storage = _Storage("<f4", 6)
    storage.values = np.arange(6, dtype="<f4")
    np.testing.assert_array_equal(_View(storage, 1, (2, 2), (2, 1)).array("w"), [[1, 2], [3, 4]])
    for offset, shape, strides in ((0, (7,), (1,)), (5, (2,), (1,)), (0, (2,), (-1,)), (-1, (1,), (1,))):
        with pytest.raises(WeightsError, match="does not lie within its 6 numbers"):
            _View(storage, offset, shape, strides).array("w")


# What follows assembles pickles by hand, with what torch itself never writes.

def _text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _named(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _number(value):
    if -1 << 31 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _tuple(*parts):
    return b"(" + b"".join(parts) + b"t"


def _storage(kind="FloatStorage", key="0", count=1):
    return _tuple(_text("storage"), _named("torch", kind), _text(key), _text("cpu"), _number(count)) + b"Q"


def _tensor(storage, offset, shape, strides):
    arguments = _tuple(storage, _number(offset), _tuple(*map(_number, shape)), _tuple(*map(_number, strides)), b"\x89",
                       b"}")
    return _named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def _pickled(**tensors):
    return b"\x80\x02}(" + b"".join(_text(name) + tensor for name, tensor in tensors.items()) + b"u."


def _zipped(data, storages=(("0", struct.pack("<f", 1.0)),), compression=zipfile.ZIP_STORED, **more):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")   # a name that is there twice
        archive.writestr("a/data.pkl", data)
        for key, values in (*storages, *more.items()):
            archive.writestr(f"a/data/{key}" if key not in more else f"a/{key}", values)
    return file.getvalue()


def _rows(*parts):
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join((*head, *parts))


ONE = _tensor(_storage(), 0, (1,), (1,))
CALLED = _named("torch._utils", "_rebuild_tensor_v2")
HOSTILE = {
    "a call": (_zipped(b"\x80\x02" + _named("os", "system") + _tuple(_text("true")) + b"R."), "names os.system"),
    "inside of an allowed function": (_zipped(b"\x80\x04" + _text("torch._utils")
                                              + _text("_rebuild_parameter.__globals__") + b"\x93."),
                                      "names torch._utils._rebuild_parameter.__globals__"),
    "the old opcode of calls": (_zipped(b"\x80\x02(" + _text("id") + b"ios\nsystem\n."), "opcode INST"),
    "keyword arguments": (_zipped(b"\x80\x04" + CALLED + b")}\x92."), "opcode NEWOBJ_EX"),
    "an extension code": (_zipped(b"\x80\x02\x83\x01\x02."), "opcode EXT2"),
    "attributes of a class": (_zipped(b"\x80\x02" + CALLED + b"(N}(" + _text("array") + CALLED + b"utb."),
                              "fills or changes the name torch._utils._rebuild_tensor_v2"),
    "attributes of a dict": (_zipped(b"\x80\x02}}" + _text("items") + b"Nsb."), "sets attributes of a dict"),
    "a memo of a thousand million": (_zipped(b"\x80\x02Nr" + struct.pack("<I", 1 << 30) + b"."), "holds a NoneType"),
    "a value from nowhere": (_zipped(b"\x80\x02h\x07."), "refers to its value 7"),
    "text of 64 GB": (_zipped(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 36) + b"x."), "more than 256,000,000 bytes"),
    "text beyond the end": (_zipped(b"\x80\x04X" + struct.pack("<I", 1 << 20) + b"x."), "ends too early"),
    "an integer of 1 KB": (_zipped(b"\x80\x02\x8b" + struct.pack("<i", 1000) + bytes(1000) + b"."), "of 1000 bytes"),
    "no value": (_zipped(b"\x80\x02."), "takes more values than it has"),
    "a pop without a mark": (_zipped(b"\x80\x02t."), "takes more values than it has"),
    "20,000 tuples in each other": (_zipped(b"\x80\x02)" + b"\x85" * 20_000 + b"."), "holds a tuple"),
    "20,000 tuples as a key": (_zipped(b"\x80\x02})" + b"\x85" * 20_000 + b"Ns."), "expected a state dict"),
    "a list in itself": (_zipped(b"\x80\x02]q\x00h\x00a."), "holds a list"),
    "a dict in itself": (_zipped(b"\x80\x02}q\x00" + _text("a") + b"h\x00s."), "expected a state dict"),
    "512 million numbers out of one": (_zipped(_pickled(w=_tensor(_storage(), 0, (1 << 29,), (0,)))),
                                     "makes 536870912 numbers out of 1"),
    "many that are a little larger": (_zipped(_pickled(**{f"w{i}": _tensor(_storage(), 0, (1 << 18,), (0,))
                                                          for i in range(5)})), "w4: shape .* numbers out of 1"),
    "a shape that wraps": (_zipped(_pickled(w=_tensor(_storage(), 0, (1 << 32, 1 << 32), (1, 1)))), "does not lie"),
    "strides that wrap": (_zipped(_pickled(w=_tensor(_storage(), 0, (2, 2), (1 << 62, 1 << 62)))), "does not lie"),
    "a huge shape of nothing": (_zipped(_pickled(w=_tensor(_storage(), 0, (0, 1 << 60), (1, 1)))), "does not lie"),
    "a place behind the end": (_zipped(_pickled(w=_tensor(_storage(), 1 << 62, (0,), (1,)))), "does not lie"),
    "200 dimensions": (_zipped(_pickled(w=_tensor(_storage(), 0, (1,) * 200, (1,) * 200))), "does not lie"),
    "True for a size": (_zipped(_pickled(w=_named("torch._utils", "_rebuild_tensor_v2")
                                         + _tuple(_storage(), _number(0), _tuple(b"\x88"), _tuple(_number(1))) + b"R")),
                        "not whole numbers"),
    "another kind of storage": (_zipped(_pickled(w=_tensor(_tuple(_text("storage"), _text("O"), _text("0"),
                                                                  _text("cpu"), _number(1)) + b"Q", 0, (1,), (1,)))),
                                "whole storages only"),
    "one storage of two kinds": (_zipped(_pickled(w=ONE, v=_tensor(_storage("IntStorage"), 0, (1,), (1,)))),
                                 "as 1 of float32 and as 1 of int32"),
    "less than nothing": (_zipped(_pickled(w=_tensor(_storage(count=-1), 0, (0,), (1,)))), "-1 numbers"),
    "a name of two tensors": (_zipped(_pickled(w=ONE)[:-2] + _text("w") + ONE + b"u."), "has w twice"),
    "a key that leads elsewhere": (_zipped(_pickled(w=_tensor(_storage(key="../../passwd"), 0, (1,), (1,)))),
                                   "storage ../../passwd is missing"),
    "100 MB of zeros out of 100 KB": (_zipped(_pickled(w=_tensor(_storage(count=25_000_000), 0, (1,), (1,))),
                                              [("0", bytes(100_000_000))], zipfile.ZIP_DEFLATED), "bytes together"),
    "more zeros than numbers": (_zipped(_pickled(w=ONE), [("0", bytes(1_000_000))], zipfile.ZIP_DEFLATED),
                                "has 1000000 bytes; 1 numbers of float32 need 4"),
    "a million opcodes out of little": (_zipped(b"\x80\x02" + b"N" * 30_000_000, (), zipfile.ZIP_DEFLATED),
                                        "bytes together"),
    "data.pkl twice": (_zipped(_pickled(w=ONE), **{"data.pkl": b"N."}), "a/data.pkl twice"),
    "another compression": (_zipped(_pickled(w=ONE), compression=zipfile.ZIP_LZMA), "compressed by method 14"),
    "a program": (_zipped(_pickled(w=ONE), **{"constants.pkl": b"N."}), "a TorchScript archive"),
    "a big-endian machine's": (_zipped(_pickled(w=ONE), byteorder=b"big"), "big-endian machine"),
    "rows of another machine": (_rows().replace(b"\x88", b"\x89") + _pickled(w=ONE), "big-endian machine"),
    "rows that state a terabyte": (_rows(_pickled(w=_tensor(_storage(count=1 << 40), 0, (1,), (1,))),
                                         pickle.dumps(["0"], 2), struct.pack("<q", 1 << 40), bytes(4)),
                                   "4398046511104 bytes are expected"),
    "rows without their storage": (_rows(_pickled(w=ONE), pickle.dumps([], 2)), "lists 0 storages"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_little_memory(tmp_path, name):
    data, words = HOSTILE[name]
    path = tmp_path / "hostile.pth"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(WeightsError, match=words) as caught:
        read_torch(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000 and str(path) in str(caught.value)
    assert most < 40_000_000, f"{most / 1e6:.0f} MB were allocated"


def test_a_refused_file_leaves_nothing_behind(tmp_path):
    good, evil = tmp_path / "good.pth", tmp_path / "evil.pth"
    good.write_bytes(_zipped(_pickled(w=ONE)))
    slots = _text("shape") + _tuple(_number(2)) + _text("array") + CALLED
    for named in (("torch._utils", "_rebuild_tensor_v2"), ("torch", "BFloat16Storage"), ("collections", "OrderedDict")):
        evil.write_bytes(_zipped(b"\x80\x02" + _named(*named) + b"(N}(" + slots + b"utb0N."))
        with pytest.raises(WeightsError, match="fills or changes the name"):
            read_torch(evil)
        np.testing.assert_array_equal(read_torch(good)["w"], [1.0])
    assert float(ml_dtypes.bfloat16(1.5)) == 1.5


def test_encrypted_and_overlapping_members(tmp_path):
    data = bytearray(_zipped(_pickled(w=ONE)))
    for sign, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(sign) + place] |= 1
    (tmp_path / "locked.pth").write_bytes(data)
    with pytest.raises(WeightsError, match="a/data.pkl is encrypted"):
        read_torch(tmp_path / "locked.pth")
    data = bytearray(_zipped(_pickled(w=_tensor(_storage(count=1 << 28), 0, (1,), (1,)))))
    entry = data.find(b"PK\1\2", data.find(b"PK\1\2") + 4)
    data[entry + 20:entry + 28] = struct.pack("<II", 1 << 30, 1 << 30)   # the table of contents states 1 GB
    (tmp_path / "lies.pth").write_bytes(data)
    with pytest.raises(WeightsError, match="states 1073741824 bytes; the file has"):
        read_torch(tmp_path / "lies.pth")


def test_files_with_changed_bytes_are_read_or_refused(tmp_path):
    torch, state = _state()
    draw, path, refused = random.Random(0), tmp_path / "changed.pth", 0
    for zipped in (True, False):
        torch.save(collections.OrderedDict(state), path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            path.write_bytes(data)
            try:
                read_torch(path)
            except WeightsError:
                refused += 1
    assert refused > 200
