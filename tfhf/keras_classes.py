"""Keras finds the classes of this library by the names in a saved model, though nothing has imported them yet.

Keras knows a class of another library once the module that registers it has been imported. `import tfhf` imports none,
not even Keras; so it leaves a stand-in for each class with Keras, or, if Keras is yet to be imported, in that moment.
Where a saved model names the class, its stand-in imports the module and lets the class itself go on.
"""

import importlib
import importlib.abc
import importlib.util
import sys

PACKAGE = "tfhf"
# Registered classes beside those that `tfhf` exports: name -> module.
OTHERS = {
    "AdamW": "tfhf.optimizers",
    "AdversarialPair": "tfhf.gan",
    "Conv1D": "tfhf.layers.convolution",
    "Conv2D": "tfhf.layers.convolution",
    "DepthLoss": "tfhf.losses.depth",
    "LabelCrossEntropy": "tfhf.losses.cross_entropy",
    "MeanTokenLoss": "tfhf.losses.vocabulary",
    "MonodepthLoss": "tfhf.losses.monodepth",
    "PReLU": "tfhf.layers.prelu",
    "PeftModel": "tfhf.peft.model",
    "PixelShuffle": "tfhf.layers.pixel_shuffle",
    "SyncBatchNormalization": "tfhf.layers.sync_batch_norm",
    "TokenCrossEntropy": "tfhf.losses.cross_entropy",
    "VGGFeatures": "tfhf.models.vgg.model",
    "WarmupSchedule": "tfhf.optimizers",
    "Wav2Vec2PreTrainingLoss": "tfhf.losses.contrastive",
}


class StandIn:
    """What Keras has for a class whose module has not been imported."""

    def __init__(self, name, module):
        self.name, self.module = name, module

    def from_config(self, config, custom_objects=None):
        """As the class's own, which is registered in the place of this from now on."""
        return getattr(importlib.import_module(self.module), self.name).from_config(config)


def announce(exports):
    """Leaves the stand-ins with Keras, now or when it is imported.

    Args:
        exports: {name: module} of what `tfhf` exports.
    """
    classes = {**exports, **OTHERS}
    if sys.modules.get("keras") is not None:   # None: somebody has forbidden to import it
        _leave(classes)
    else:
        sys.meta_path.insert(0, _WhenKerasIsImported(classes))


def _leave(classes):
    registered = sys.modules["keras"].saving.get_custom_objects()
    for name, module in classes.items():
        registered.setdefault(f"{PACKAGE}>{name}", StandIn(name, module))


class _WhenKerasIsImported(importlib.abc.MetaPathFinder):
    """Finds Keras as the others do, and leaves the stand-ins once it is there."""

    def __init__(self, classes):
        self.classes = classes

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            _leave(self.classes)

        spec.loader.exec_module = exec_module
        return spec
