"""TF Serving's messages against TensorFlow's own, and arrays into tensors and back."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tfhf.wire import MESSAGES, WireError, from_tensor, to_array, to_tensor

ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True, False]), np.array([1, -2], np.int64),
          np.float16([1.5, -2]), np.zeros((0, 3), np.int32), np.uint8([[1, 255]]), np.array(3.5), np.uint64([2**63]),
          np.array([b"\x00\xff", b""], object), np.int16([-5]), np.uint16([65535]), np.int8([-1]), np.uint32([2**31])]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_tensors_are_tensorflows(array):
    theirs = tensor_pb2.TensorProto.FromString(to_tensor(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(theirs), array)
    for proto in (tf.make_tensor_proto(array), _unpacked(array)):
        found = from_tensor(MESSAGES["TensorProto"].FromString(proto.SerializeToString()))
        assert found.dtype == array.dtype and found.shape == array.shape
        np.testing.assert_array_equal(found, array)


def _unpacked(array):
    """With the values in their own field, as TensorFlow writes them for small tensors."""
    proto = tf.make_tensor_proto(array)
    values = array.view(np.uint16) if array.dtype == np.float16 else array   # halves go as their bits
    field = {"f2": "half_val", "f4": "float_val", "f8": "double_val", "i8": "int64_val", "b1": "bool_val",
             "u4": "uint32_val", "u8": "uint64_val", "O": "string_val"}.get(array.dtype.str[1:], "int_val")
    for each in ("tensor_content", field):
        proto.ClearField(each)
    getattr(proto, field).extend(values.reshape(-1).tolist())
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    return proto


def test_one_value_may_stand_for_all():
    tensor = MESSAGES["TensorProto"](dtype=1, float_val=[2.5])
    for size in (2, 3):
        tensor.tensor_shape.dim.add(size=size)
    np.testing.assert_array_equal(from_tensor(tensor), np.full((2, 3), 2.5, np.float32))
    tensor.tensor_shape.dim.add(size=2**40)
    with pytest.raises(WireError, match="got 1 values for shape"):
        from_tensor(tensor)


@pytest.mark.parametrize("change, words", [
    (lambda t: setattr(t, "dtype", 8), "type 8, expected one of"),
    (lambda t: setattr(t, "tensor_content", b"123"), "got 3 bytes for shape (2,) of float32, expected 8"),
    (lambda t: setattr(t.tensor_shape, "unknown_rank", True), "unknown shape"),
    (lambda t: setattr(t.tensor_shape.dim[0], "size", -1), "unknown shape"),
    (lambda t: (t.ClearField("tensor_content"), t.float_val.extend([1, 2, 3])), "got 3 values for shape (2,)"),
])
def test_bad_tensors_are_told(change, words):
    tensor = to_tensor(np.float32([1, 2]))
    change(tensor)
    with pytest.raises(WireError) as error:
        from_tensor(tensor)
    assert words in str(error.value)


@pytest.mark.parametrize("dtype, field, values, words", [
    (4, "int_val", [300], "uint8: 300, expected 0 to 255"), (4, "int_val", [300, 5], "uint8: 300"),
    (4, "int_val", [-1], "uint8: -1"), (6, "int_val", [200], "int8: 200, expected -128 to 127"),
    (6, "int_val", [0, -129], "int8: -129"), (5, "int_val", [70000], "int16: 70000"),
    (17, "int_val", [-1], "uint16: -1"), (17, "int_val", [2**16], "uint16: 65536"),
    (19, "half_val", [70000], "float16: 70000"),
    (19, "half_val", [-1], "float16: -1"), (10, "tensor_content", b"\2", "bool: 2, expected 0 or 1"),
])
def test_values_out_of_range_are_refused(dtype, field, values, words):
    tensor = MESSAGES["TensorProto"](dtype=dtype, **{field: values})
    tensor.tensor_shape.dim.add(size=len(values))
    with pytest.raises(WireError, match=f"out of range for {words}"):
        from_tensor(tensor)


@pytest.mark.parametrize("shape", [(0, 1 << 62, 1 << 62), (1,) * 65, (0,) * 300, (1 << 40, 0, 1 << 40)])
def test_shapes_that_no_array_has_are_refused(shape):
    tensor = MESSAGES["TensorProto"](dtype=4, int_val=[] if 0 in shape else [1])
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    with pytest.raises(WireError, match="of which there is no array"):
        from_tensor(tensor)


def test_a_string_is_repeated_within_bounds():
    tensor = MESSAGES["TensorProto"](dtype=7, string_val=[b"x" * 1000])
    tensor.tensor_shape.dim.add(size=100)
    assert from_tensor(tensor).tolist() == [b"x" * 1000] * 100
    with pytest.raises(WireError, match="one value stands for at most 1048576, and for 99999 bytes"):
        from_tensor(tensor, 99_999)


def test_python_values():
    assert to_array([["é", b"x"], ["", "y"]]).tolist() == [["é".encode(), b"x"], [b"", b"y"]]
    assert to_array([1, 2.5]).dtype == np.float32 and to_array([1, 2]).dtype == np.int64
    for values, words in (([[1], [2, 3]], "not an array"), (["a", ["b"]], "ragged"), (["a", 1], "strings and numbers"),
                          ([None], "expected numbers"), ([1j], "expected numbers")):
        with pytest.raises(WireError, match=words):
            to_array(values)
