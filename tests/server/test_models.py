"""Which models are found, what they take, and what a client is told of their errors."""

import numpy as np
import pytest

from tfhf.server.models import Model, NotFound, RequestError, ServeError, find_models, new_stop, told


def test_models_are_found_by_folder_version_and_name(models, tmp_path):
    assert find_models([models]) == {"echo": (10, f"{models}/echo/10"), "echo2": (1, f"{models}/echo2/1")}
    assert find_models([f"{models}/echo"]) == {"echo": (10, f"{models}/echo/10")}
    assert find_models([f"mine={models}/echo/2"]) == {"mine": (1, f"{models}/echo/2")}
    for paths, words in (([str(tmp_path)], "no SavedModel"), ([f"{tmp_path}/nowhere"], "no SavedModel"),
                         ([models, f"{models}/echo"], "'echo' twice"), ([f"a b={models}/echo"], "expected letters"),
                         ([f"mine={models}"], "expected one to be called 'mine'")):
        with pytest.raises(ServeError, match=words):
            find_models(paths)


@pytest.fixture(scope="module")
def model(models):
    return Model("echo", *find_models([models])["echo"])


def test_a_signature_runs(model):
    given = model.signature("").check({"text": np.array([b"abc", "é".encode()], object)}, 2)
    found = model.signature("").run(given, new_stop())
    assert found["length"].tolist() == [3, 2] and found["echo"].tolist() == [b"abc!", "é!".encode()]
    assert model.signature("raw").batched
    with pytest.raises(NotFound, match="no signature 'other', it has"):
        model.signature("other")


@pytest.mark.parametrize("given, words", [
    ({}, "got the inputs [], expected ['n', 'x']"),
    ({"x": np.zeros((2, 3)), "n": np.zeros(2, np.int32)}, "'x': got the shape [2, 3], expected [-1, 2]"),
    ({"x": np.zeros((2, 2)), "n": np.zeros(3, np.int32)}, "batches of [2, 3] examples"),
    ({"x": np.zeros((0, 2)), "n": np.zeros(0, np.int32)}, "without an example"),
    ({"x": np.array([b"a"], object), "n": np.zeros(1, np.int32)}, "'x': got strings, expected float32"),
    ({"x": np.zeros((1, 2)), "n": np.array([2**40])}, "out of the range of int32"),
    ({"x": np.zeros((1, 2)), "n": np.array([1.5])}, "'n': got float64, expected int32"),
])
def test_inputs_that_do_not_fit_are_told(model, given, words):
    with pytest.raises(RequestError) as error:
        model.signature("raw").check(given, 8)
    assert words in str(error.value)


def test_a_refusal_of_the_model_is_told_without_a_trace(model):
    with pytest.raises(RequestError) as error:
        model.signature("").run({"text": np.array([b""], object)}, new_stop())
    assert str(error.value) == "RecordError: an empty text, expected at least one letter"
    assert told("{{node a/b}} cannot read /srv/secret/file.py\n\t [[{{node x}}]]") == "cannot read …"
    assert told("\n") == "the model refused the input" and len(told("x" * 10_000)) <= 500
