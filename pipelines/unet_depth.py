"""Depth of every pixel from one image: UNet trained on measured depth, from image_depth records.

Papers: Ronneberger et al. 2015, "U-Net"; Eigen et al. 2014, "Depth Map Prediction from a Single Image using a
Multi-Scale Deep Network" (the scale-invariant loss, the errors, the split); Eigen and Fergus 2015 (the gradient term).
Records: `tfhf records imagefolder`, which knows NYUv2's layout; see docs/vision.md.

    tfhf train unet_depth --recipe nyu --strategy tpu --data gs://BUCKET/nyu --output gs://BUCKET/run
    tfhf evaluate unet_depth --recipe nyu --data gs://BUCKET/nyu --output gs://BUCKET/run --split test
    tfhf predict unet_depth --recipe nyu --output gs://BUCKET/run PHOTO.jpg
    tfhf export unet_depth --recipe nyu --output gs://BUCKET/run --export-dir EXPORT

`nyu` (also `default`), written for a v3-8: 31,037,633 parameters, batch normalisation over the global batch, crops of
416 x 544 out of 480 x 640, 8 a core x 8 cores = 64 a step, 25 epochs of some 50,000 frames of the raw Kinect recordings
(Eigen's training scenes) = 19,500 steps; a crop is 0.17 T multiply-adds forward, so a step 8 TFLOP a core. Not run by
us: NYUv2 cannot be had here, nor has a TPU. What to expect of it, on the 654 test images in Eigen's crop: Eigen et al.
2014, their coarse part pretrained on ImageNet, report abs rel 0.215, RMSE 0.907 m, delta_1 0.611, Eigen and Fergus 2015
(VGG) 0.158, 0.641 m and 0.769. A UNet from random weights should come near the first; much worse is a fault. On the 795
densely labelled images alone it overfits: take the raw recordings.

`tiny_cpu`: a small one on 48 x 64 pixels and two CPU cores, minutes; tests/test_unet_depth_proofs.py measures it.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfhf.config import Config
from tfhf.data import image as images
from tfhf.data.augment import random_colour, random_crop, random_flip
from tfhf.data.depth import image_and_depth
from tfhf.data.schema import IMAGE_DEPTH
from tfhf.decoding.compile import compiled
from tfhf.losses.depth import DepthLoss
from tfhf.metrics.depth import AtOwnSize, DepthErrors
from tfhf.models.unet.config import UNetConfig
from tfhf.models.unet.model import UNetForDepthEstimation
from tfhf.optimizers import OptimizerConfig
from tfhf.pictures import colour_depth, error_map, side_by_side
from tfhf.run import DataConfig, RunConfig
from tfhf.serving import image_depth_signatures, pixels_of
from tfhf.task import Task, TaskError


@dataclasses.dataclass(frozen=True)
class UNetDepthConfig(Config):
    """`image_size`: (height, width) that images are resized to; `crop_size`: what of it one training step sees, with
    `augment` at a random place, mirrored or not, its colours changed. `l1`, `mse`, `silog`, `gradient`,
    `scale_invariance`: see `DepthLoss`. `crop`: the part that is scored, see tfhf/metrics/depth.py. Depth outside
    model.min_depth and model.max_depth counts as not measured. `png_scale`: metres in one unit of an export's PNG."""

    image_size: tuple[int, ...] = (480, 640)
    crop_size: tuple[int, ...] = (416, 544)
    augment: bool = True
    l1: float = 0.0
    mse: float = 0.0
    silog: float = 1.0
    gradient: float = 1.0
    scale_invariance: float = 0.5
    crop: str = "nyu_eigen"
    png_scale: float = 0.001
    model: UNetConfig = UNetConfig.of_size("unet-bn")


class UNetDepthTask(Task):  # images in, metres out
    name, Config, record_type, reference_field = "unet_depth", UNetDepthConfig, IMAGE_DEPTH, "depth"
    buckets = (images.MAX_PIXELS,)

    def __init__(self, config):
        super().__init__(config)
        size, crop = config.image_size, config.crop_size
        if len(size) != 2 or len(crop) != 2 or not all(0 < c <= s for c, s in zip(crop, size)):
            raise TaskError(f"task.image_size, task.crop_size: got {size} and {crop}, expected height and width of "
                            "both, a crop no larger than the image")
        self._depth = None

    @classmethod
    def tiny(cls):
        model = UNetConfig(hidden_sizes=(4, 8), use_bias=False, use_batch_norm=True)
        return cls(UNetDepthConfig((18, 26), (15, 21), crop="none", model=model))

    def preprocess(self, example, bucket, training):
        o, seed = self.config, example["seed"]
        image, depth = image_and_depth(example)
        image, depth = pixels_of(image, o.image_size), images.resize(depth, o.image_size, "nearest")
        depth = tf.where((depth >= o.model.min_depth) & (depth <= o.model.max_depth), depth, 0.0)
        if training and o.augment:
            image, depth = random_flip(seed, random_crop(seed, [image, depth], o.crop_size))
            image = images.to_uint8(random_colour(seed, images.to_float(image), 0.2, 0.2, 0.2, 0.05))
        # A crop may hold no valid pixel; it then counts for nothing.
        return {"pixel_values": image}, depth, tf.cast(tf.reduce_any(depth > 0), tf.float32)

    def reference(self, example):
        return tf.io.serialize_tensor(image_and_depth(example)[1])

    def build_model(self):
        return UNetForDepthEstimation(self.config.model)

    def loss(self):
        o = self.config
        return DepthLoss(o.l1, o.mse, o.silog, o.gradient, o.scale_invariance)

    def metrics(self):
        o = self.config
        return [AtOwnSize(DepthErrors(o.model.min_depth, o.model.max_depth, o.crop))]

    def decode(self, model, inputs):
        if self._depth is None or self._depth[0] is not model:
            self._depth = model, compiled(lambda batch: model(batch, training=False), jit_compile=None)
        return list(np.asarray(self._depth[1](inputs))[..., 0])

    def pictures(self, inputs, targets, outputs):
        def row(image, truth, depth):
            return side_by_side([image, colour_depth(depth), colour_depth(truth), error_map(depth, truth, truth > 0)],
                                ["input", "prediction", "truth", "error"])

        return {"depth": np.stack([row(*one) for one in zip(inputs["pixel_values"], targets, outputs)])}

    def picture(self, inputs, prediction):
        return side_by_side([inputs["pixel_values"], colour_depth(prediction)])

    def load_inputs(self, path):
        return {"pixel_values": pixels_of(images.read_image(path), self.config.image_size).numpy()}

    def signatures(self, model):
        o = self.config
        return image_depth_signatures(lambda inputs: model(inputs, training=False), o.image_size, o.png_scale)

    def example_requests(self):
        ramp = np.linspace(0, 255, 40 * 60 * 3).astype("uint8").reshape(40, 60, 3)
        data = [tf.io.encode_jpeg(ramp).numpy(), tf.io.encode_png(ramp[:30]).numpy()]
        return {"serving_default": {"image": data}}


TASK = UNetDepthTask
_NYU = RunConfig(
    output="runs/unet_depth", data=DataConfig("records", eval_split="test"), batch_size=64, eval_batch_size=64,
    steps=19_500, precision="mixed_bfloat16", steps_per_execution=10, log_every=50, checkpoint_every=500,
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=500, weight_decay=0.01),
    task=UNetDepthConfig())
RECIPES = {
    "default": _NYU,
    "nyu": _NYU,
    "tiny_cpu": RunConfig(
        output="runs/unet_depth_tiny", data=DataConfig("records"), batch_size=16, eval_batch_size=16, steps=400,
        log_every=50, checkpoint_every=0, jit_compile=False,
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=20),
        task=UNetDepthConfig((48, 64), (48, 64), crop="none", model=UNetConfig(
            hidden_sizes=(8, 16, 32), use_bias=False, use_batch_norm=True))),
}
