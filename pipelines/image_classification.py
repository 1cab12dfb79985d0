"""Image classification: one of several labels for an image, with ResNet or EfficientNet-Lite, from image_label records.

Papers: He et al. 2015, "Deep Residual Learning for Image Recognition"; Tan and Le 2019, "EfficientNet"; Zhang et al.
2017, "mixup"; Szegedy et al. 2016, section 7 (label smoothing). Records: `tfhf records imagefolder` or `mnist5k`.

    tfhf records mnist5k --out DIR
    tfhf train image_classification --recipe mnist --data DIR --output RUN
    tfhf evaluate image_classification --recipe mnist --data DIR --output RUN
    tfhf export image_classification --recipe mnist --output RUN --export-dir EXPORT

`mnist`: a ResNet of 8 layers (78 k parameters) on 4,000 digits, two CPU cores, under three minutes: docs/results.md.
`resnet50_imagenet` (`default`), for a v3-8: 25.6 M parameters, 128 images a core x 8 = 1,024 a step, 90 epochs of
1,281,167 images = 112,500 steps, AdamW, label smoothing 0.1, MixUp 0.2, means of the weights. Expected: torchvision's
ResNet-50 (90 epochs, SGD, no smoothing, no MixUp) has 76.1 % top-1, 92.9 % top-5; less than 75 % is a fault. Not run by
us: we have neither ImageNet nor a TPU. `resnet50_finetune`: timm's weights, all trained, on your task.classes=NAME,...;
`resnet50_frozen`: the last layer alone; `efficientnet_lite0_finetune`.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfhf.config import Config
from tfhf.data.augment import mixup_share
from tfhf.data.class_weights import ClassWeights
from tfhf.data.image import MAX_PIXELS, read_image
from tfhf.data.image_view import ImageView
from tfhf.data.labels import check_model_labels, checked_label, class_names, labels_file
from tfhf.data.schema import IMAGE_LABEL
from tfhf.decoding.compile import compiled
from tfhf.losses.cross_entropy import LabelCrossEntropy
from tfhf.metrics.classification import ByNumber, ConfusionMatrix, Ranked, TopAccuracy
from tfhf.models.efficientnet_lite.config import EfficientNetLiteConfig
from tfhf.models.efficientnet_lite.model import EfficientNetLiteForImageClassification
from tfhf.models.resnet.config import ResNetConfig
from tfhf.models.resnet.model import ResNetForImageClassification
from tfhf.optimizers import OptimizerConfig
from tfhf.run import DataConfig, RunConfig
from tfhf.serving import image_label_signatures
from tfhf.task import Task, TaskError

SCRATCH = "scratch"
MODELS = {**dict.fromkeys(ResNetConfig.sizes, ResNetForImageClassification),
          **dict.fromkeys(EfficientNetLiteConfig.sizes, EfficientNetLiteForImageClassification)}


@dataclasses.dataclass(frozen=True)
class ImageClassificationConfig(Config):
    """`model`: a size of MODELS; of `pretrained`, a folder or hub id, it tells the kind only; "scratch" begins with
    random weights. `new_head`: begin a new head, whatever the checkpoint has. Names of the classes: `classes`, or those
    in `classes_file` (`labels_file`); without either the numbers below `num_classes`. `mixup`: alpha; 0 is none."""

    model: str
    pretrained: str = SCRATCH
    new_head: bool = True
    classes: tuple[str, ...] = ()
    classes_file: str = ""
    num_classes: int = 1000
    image: ImageView = ImageView()
    label_smoothing: float = 0.0
    mixup: float = 0.0
    class_weights: ClassWeights = ()   # "balanced", or a number for each class


class ImageClassificationTask(Task):  # images in, the name of a class out
    name, Config, record_type, reference_field = "image_classification", ImageClassificationConfig, IMAGE_LABEL, "label"
    buckets = (MAX_PIXELS,)

    def __init__(self, config):
        super().__init__(config)
        if config.model not in MODELS:
            raise TaskError(f"task.model: got {config.model!r}, expected one of {', '.join(MODELS)}")
        self.classes = class_names(config.classes, config.classes_file, config.num_classes)
        self.record_classes = labels_file(config.classes_file)[1] if config.classes_file else ()
        self._best = None

    @classmethod
    def tiny(cls):
        return cls(ImageClassificationConfig("resnet8", classes=("a", "b", "c"), image=ImageView(16, 1)))

    def preprocess(self, example, bucket, training):
        o, seed, label = self.config, example["seed"], checked_label(example, len(self.classes))
        image = o.image.random(example["image"], seed) if training else o.image.middle(example["image"])
        if not o.mixup:
            return {"pixel_values": image}, label, 1.0
        share = mixup_share(seed, o.mixup) if training else tf.ones([])
        return {"pixel_values": image, "mixup": share}, {"label": label, "mixup": share}, 1.0

    def build_model(self):
        o, model_class = self.config, MODELS[self.config.model]
        changes = {"num_labels": len(self.classes), "labels": tuple(self.classes), "num_channels": o.image.channels}
        if o.pretrained == SCRATCH:
            return model_class(model_class.config_class.of_size(o.model, **changes))
        model = model_class.from_pretrained(o.pretrained, o.new_head, **changes)
        if not o.new_head:
            check_model_labels(self, model.pretrained_folder)
        return model

    def loss(self):
        return LabelCrossEntropy(self.config.label_smoothing)

    def metrics(self):
        count = len(self.classes)
        few = [ByNumber(ConfusionMatrix(self.classes), self.classes)] if count <= 32 else []
        return [TopAccuracy((1, min(5, count)) if count > 2 else (1,)), *few]

    def decode(self, model, inputs):
        if self._best is None or self._best[0] is not model:
            count = min(5, len(self.classes))
            self._best = model, compiled(lambda batch: tf.math.top_k(model(batch, training=False), count).indices, None)
        return [Ranked(self.classes[best[0]], best) for best in np.asarray(self._best[1](inputs))]

    def load_inputs(self, path):
        view = self.config.image
        return {"pixel_values": view.middle_of(read_image(path, view.channels)).numpy()}

    def signatures(self, model):
        return image_label_signatures(model, self.config.image.middle, self.classes)

    def example_requests(self):
        ramp = np.linspace(0, 255, 40 * 60 * 3).astype("uint8").reshape(40, 60, 3)
        return {"serving_default": {"image": [tf.io.encode_jpeg(ramp).numpy(), tf.io.encode_png(ramp[:30]).numpy()]}}


TASK = ImageClassificationTask
_FINETUNE = RunConfig(
    output="runs/image_classification", data=DataConfig("records"), batch_size=256, eval_batch_size=256, steps=3000,
    precision="mixed_bfloat16", steps_per_execution=10, log_every=50, checkpoint_every=500, evaluate_every=500,
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="cosine", warmup_steps=300, weight_decay=0.05),
    task=ImageClassificationConfig("resnet50", "timm/resnet50.a1_in1k", classes=("cat", "dog"), label_smoothing=0.1))
_IMAGENET = dataclasses.replace(
    _FINETUNE, output="runs/resnet50_imagenet", batch_size=1024, eval_batch_size=1024, steps=112_500, ema_decay=0.9999,
    optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=6250, weight_decay=0.05),
    task=ImageClassificationConfig("resnet50", label_smoothing=0.1, mixup=0.2))
RECIPES = {
    "default": _IMAGENET,
    "resnet50_imagenet": _IMAGENET,
    "resnet50_finetune": _FINETUNE,
    "resnet50_frozen": dataclasses.replace(
        _FINETUNE, freeze=("/resnet/",), optimizer=dataclasses.replace(_FINETUNE.optimizer, learning_rate=3e-3)),
    "efficientnet_lite0_finetune": dataclasses.replace(_FINETUNE, task=dataclasses.replace(
        _FINETUNE.task, model="efficientnet_lite0", pretrained="timm/tf_efficientnet_lite0.in1k")),
    "mnist": RunConfig(
        output="runs/mnist", data=DataConfig("records", eval_split="test"), batch_size=64, eval_batch_size=200,
        steps=1250, log_every=50, checkpoint_every=0, jit_compile=False, ema_decay=0.99,
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="cosine", warmup_steps=50, weight_decay=0.05),
        task=ImageClassificationConfig("resnet8", num_classes=10, image=ImageView(
            28, 1, fraction=1.0, area=(0.7, 1.0), ratio=(0.8, 1.25), flip=False))),
}
