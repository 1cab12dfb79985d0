"""tensorflow-text, imported where it is needed: the extra `text`, which a TPU VM installs with --no-deps."""

import importlib


class TensorFlowTextMissing(ImportError):
    """tensorflow-text is not installed, or does not belong to the installed TensorFlow."""


def tensorflow_text():
    """The module.

    Raises:
        TensorFlowTextMissing: with what to install.
    """
    try:
        return importlib.import_module("tensorflow_text")
    except (ImportError, OSError) as error:   # another release than TensorFlow's fails as its library is loaded
        import tensorflow as tf

        release = ".".join(tf.__version__.split(".")[:2])
        raise TensorFlowTextMissing(f"tensorflow-text of TensorFlow {tf.__version__} is needed: pip install "
                                    f"'tfhf[text]', on a TPU VM pip install --no-deps 'tensorflow-text=={release}.*'; "
                                    f"importing it answered: {error}") from error
