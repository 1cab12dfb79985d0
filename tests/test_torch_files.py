"""Torch's files without torch: both layouts as torch writes them, and what a pickle must not do."""

import os
import pickle
import zipfile

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
    torch.save({"epoch": 3, "model": state}, tmp_path / "nested.pth")
    with pytest.raises(WeightsError, match="nested.pth: holds epoch, model; expected a state dict"):
        read_torch(tmp_path / "nested.pth")


def test_a_view_that_leads_out_of_its_storage_is_refused():
    from tfhf.torch_files import _Storage, _View

    storage = _Storage("<f4", 6)
    storage.values = np.arange(6, dtype="<f4")
    np.testing.assert_array_equal(_View(storage, 1, (2, 2), (2, 1)).array("w"), [[1, 2], [3, 4]])
    for offset, shape, strides in ((0, (7,), (1,)), (5, (2,), (1,)), (0, (2,), (-1,)), (-1, (1,), (1,))):
        with pytest.raises(WeightsError, match="does not lie within its 6 numbers"):
            _View(storage, offset, shape, strides).array("w")
