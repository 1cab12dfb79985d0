"""Depth from a single image, learnt from pairs of a stereo camera without any measured depth, from stereo records.

Paper: Godard et al. 2017, "Unsupervised Monocular Depth Estimation with Left-Right Consistency" (arXiv 1609.03677).
Records: stereo; `tfhf records skimage --kind stereo` writes the one pair that needs no download; see docs/vision.md.

    tfhf train monodepth --recipe kitti --strategy tpu --data gs://BUCKET/kitti --output gs://BUCKET/run
    tfhf evaluate monodepth --recipe kitti --data gs://BUCKET/kitti --output gs://BUCKET/run --split test
    tfhf predict monodepth --recipe kitti --output gs://BUCKET/run STREET.jpg

`kitti` (also `default`), for a v3-8: the paper's section 4.1, VGG-like encoder, 31,600,072 parameters, 256 x 512, 50
epochs of the 22,600 pairs of Eigen's training split. The paper has 8 pairs a step and Adam with 1e-4, halved after 30
and 40 epochs; here 8 a core x 8 cores = 64, 17,650 steps, 2.8e-4 = 1e-4 * sqrt(64 / 8), and a cosine. Not run by us:
neither KITTI nor a TPU can be had here. Expected, as published (table 2), on Eigen's 697 test images, Garg's crop, 0 to
80 m, without post-processing: abs rel .148, sq rel 1.344, RMSE 5.927 m, RMSE log .247, delta_1 .803.
`kitti_resnet50`: 58,452,008 parameters; published after Cityscapes, with post-processing: abs rel .114.

`tiny_cpu`: crops of one pair on two CPU cores, minutes; tests/test_monodepth_proofs.py measures it.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfhf.config import Config
from tfhf.data import image as images
from tfhf.data.augment import random_crop
from tfhf.data.schema import STEREO
from tfhf.data.stereo import measured_disparity, random_exposure, random_mirror, stereo_pair
from tfhf.decoding.compile import compiled
from tfhf.losses.monodepth import MonodepthLoss, warped
from tfhf.metrics.disparity import DisparityErrors
from tfhf.models.monodepth.config import MonodepthConfig, small_config, tiny_config
from tfhf.models.monodepth.model import MonodepthModel
from tfhf.optimizers import OptimizerConfig
from tfhf.pictures import colour_depth, side_by_side
from tfhf.run import DataConfig, RunConfig
from tfhf.serving import image_depth_signatures, pixels_of
from tfhf.task import Task, TaskError

PNG_SCALE = 2.0**-16   # of the width, in one unit of an export's PNG


@dataclasses.dataclass(frozen=True)
class MonodepthTaskConfig(Config):
    """`image_size`: (height, width) that images are resized to; `crop_size`: what of it one training step sees, at a
    random place. `augment`: mirror and expose at random. `alpha`, `smoothness_weight`, `left_right_weight`: see
    `MonodepthLoss`. `post_process`: answer with the mirrored image's help. `focal_times_baseline`, `max_depth`, `crop`:
    see `DisparityErrors`. `pretrained`: a saved `MonodepthModel`'s folder; None: random weights, of shape `model`."""

    image_size: tuple[int, ...] = (256, 512)
    crop_size: tuple[int, ...] = (256, 512)
    augment: bool = True
    alpha: float = 0.85
    smoothness_weight: float = 0.1
    left_right_weight: float = 1.0
    post_process: bool = True
    focal_times_baseline: float | None = None
    max_depth: float = 80.0
    crop: str = "none"
    pretrained: str | None = None
    model: MonodepthConfig = MonodepthConfig.of_size("vgg")


class MonodepthTask(Task):  # one image in, disparity as a part of the width out
    name, Config, record_type, reference_field = "monodepth", MonodepthTaskConfig, STEREO, "disparity"
    buckets = (images.MAX_PIXELS,)

    def __init__(self, config):
        super().__init__(config)
        size, crop, stride = config.image_size, config.crop_size, config.model.stride
        if not len(size) == len(crop) == 2 or not all(0 < c <= s and c % stride == s % stride == 0
                                                      for c, s in zip(crop, size)):
            raise TaskError(f"task.image_size, task.crop_size: got {size} and {crop}, expected height and width of "
                            f"both, multiples of {stride}, a crop no larger than the image")
        self._answer = None

    @classmethod
    def tiny(cls):
        return cls(MonodepthTaskConfig((32, 64), (32, 48), focal_times_baseline=50.0, model=tiny_config()))

    def preprocess(self, example, bucket, training):
        o, seed = self.config, example["seed"]
        pair = [pixels_of(image, o.image_size) for image in stereo_pair(example)]
        if training:
            pair = random_crop(seed, pair, o.crop_size)
            if o.augment:
                pair = random_exposure(seed, *map(images.to_float, random_mirror(seed, *pair)))
                pair = [images.to_uint8(image) for image in pair]
        return {"pixel_values": pair[0]}, {"left": pair[0], "right": pair[1]}, tf.constant(1.0)

    def reference(self, example):
        return tf.io.serialize_tensor(measured_disparity(example))

    def build_model(self):
        folder = self.config.pretrained
        return MonodepthModel.from_pretrained(folder) if folder else MonodepthModel(self.config.model)

    def loss(self):
        o = self.config
        return MonodepthLoss(o.alpha, o.smoothness_weight, o.left_right_weight, width=o.image_size[1])

    def metrics(self):
        return [DisparityErrors(self.config.focal_times_baseline, self.config.max_depth, self.config.crop)]

    def decode(self, model, inputs):
        if self._answer is None or self._answer[0] is not model:
            self._answer = model, compiled(self._disparity_of(model), jit_compile=None)
        return list(np.asarray(self._answer[1](inputs))[..., 0])

    def pictures(self, inputs, targets, outputs):
        rebuilt = np.asarray(warped(targets["right"] / np.float32(255), outputs[0][..., :1]))
        rows = zip(targets["left"], outputs[0], rebuilt)
        return {"left_disparity_rebuilt": np.stack([side_by_side([left, colour_depth(1.0 / pair[..., 0]), again])
                                                    for left, pair, again in rows])}

    def picture(self, inputs, prediction):
        return side_by_side([inputs["pixel_values"], colour_depth(1.0 / prediction)], ["image", "disparity"])

    def _disparity_of(self, model):
        return lambda inputs: model.disparity(inputs["pixel_values"], self.config.post_process)

    def load_inputs(self, path):
        return {"pixel_values": pixels_of(images.read_image(path), self.config.image_size).numpy()}

    def signatures(self, model):
        return image_depth_signatures(self._disparity_of(model), self.config.image_size, PNG_SCALE, "disparity")

    def example_requests(self):
        ramp = np.linspace(0, 255, 40 * 60 * 3).astype("uint8").reshape(40, 60, 3)
        return {"serving_default": {"image": [tf.io.encode_jpeg(ramp).numpy(), images.encode_png(ramp[:30]).numpy()]}}


TASK = MonodepthTask
_KITTI = RunConfig(
    output="runs/monodepth", data=DataConfig("records", eval_split="test"), batch_size=64, eval_batch_size=64,
    steps=17_650, precision="mixed_bfloat16", steps_per_execution=10, log_every=50, checkpoint_every=500,
    optimizer=OptimizerConfig(learning_rate=2.8e-4, schedule="cosine", warmup_steps=500),
    task=MonodepthTaskConfig(focal_times_baseline=721.5377 * 0.54, crop="kitti_garg"))
RECIPES = {
    "default": _KITTI,
    "kitti": _KITTI,
    "kitti_resnet50": dataclasses.replace(_KITTI, task=dataclasses.replace(
        _KITTI.task, model=MonodepthConfig.of_size("resnet50"))),
    "tiny_cpu": RunConfig(
        output="runs/monodepth_tiny", data=DataConfig("records", eval_split="train"), batch_size=4, eval_batch_size=1,
        steps=500, log_every=50, checkpoint_every=0, jit_compile=False,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=20),
        task=MonodepthTaskConfig((128, 192), (128, 160), model=small_config())),
}
