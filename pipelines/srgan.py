"""Super-resolution: SRResNet, then SRGAN, from records with originals (image_pair's targets).

Paper: Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network".

    tfhf records imagefolder --folder DIV2K --out gs://BUCKET/div2k
    tfhf train srgan --strategy tpu output=gs://BUCKET/srresnet data.path=gs://BUCKET/div2k
    tfhf train srgan --recipe adversarial --strategy tpu output=gs://BUCKET/srgan data.path=gs://BUCKET/div2k
        task.start_from=gs://BUCKET/srresnet task.vgg=FOLDER    (torchvision's VGG19 as safetensors; timm/vgg19.tv_in1k)
    tfhf evaluate srgan --split set5 ...                        psnr_y_crop4, ssim_y_crop4

`default` is SRResNet by the paper: 96 x 96 pieces, 16 a step, Adam at 1e-4, 10^6 steps of squared error on [-1, 1].
`adversarial` goes on from it for 2 x 10^5 steps: VGG19 features (conv5_4 before its activation, the paper's phi_5,4)
and a thousandth of the adversarial loss; the rate falls from 1e-4 to 1e-5 by a cosine, in the paper by one step. For a
v3-8, 2 pieces a core, batch norm over those of all cores. Expected on Set5, x4, luma, 4 pixels cropped: SRResNet 32.05,
0.9019; SRGAN 29.40, 0.8472. Not run by us: DIV2K and VGG19 cannot be had here. Cut DIV2K's pictures into pieces of
480 x 480 beforehand: a whole one takes some 60 ms to decode, for one piece.
`tiny_cpu`: x2 on scikit-image's photographs, cut into pieces; tests/test_srgan_proofs.py measures both stages.
"""

import dataclasses
from typing import Literal

import numpy as np
import tensorflow as tf

from tfhf import checkpoints
from tfhf.config import Config
from tfhf.data import image as images
from tfhf.data.degradation import DegradationConfig, super_resolution_pair
from tfhf.data.schema import IMAGE_PAIR
from tfhf.data.shapes import fixed_size
from tfhf.decoding.compile import compiled_once
from tfhf.gan import AdversarialPair
from tfhf.losses.srgan import PADDING, SRGANLoss, pixel_losses
from tfhf.metrics.image_quality import PeakSignalToNoiseRatio, StructuralSimilarity
from tfhf.models.srgan.config import SRGANConfig, SRGANDiscriminatorConfig
from tfhf.models.srgan.model import SRGANDiscriminator, SRGANGenerator
from tfhf.models.vgg.model import VGGFeatures
from tfhf.optimizers import OptimizerConfig
from tfhf.pictures import side_by_side
from tfhf.run import DataConfig, RunConfig
from tfhf.serving import image_to_image_signatures, tiled
from tfhf.task import Task, TaskError


@dataclasses.dataclass(frozen=True)
class SuperResolutionConfig(Config):
    """`stage`: the squared error alone, or against a discriminator. `content`: of the second stage, on the features of
    VGG19, whose folder or hub id `vgg` is, or on pixels. `start_from`: the run whose generator training begins with.
    `discriminator`: its image_size is that of the pieces trained on, in either stage. `max_size`: height and width that
    small images are filled up to in evaluation. `tile`: what decoding and exports compute at once, without overlaps."""

    stage: Literal["pretrain", "adversarial"] = "pretrain"
    content: Literal["vgg", "pixels"] = "vgg"
    vgg: str | None = None
    start_from: str | None = None
    degradation: DegradationConfig = DegradationConfig()
    model: SRGANConfig = SRGANConfig()
    discriminator: SRGANDiscriminatorConfig = SRGANDiscriminatorConfig()
    max_size: tuple[int, int] = (512, 512)
    tile: int = 160


class SRGANTask(Task):  # small images in, large ones out
    name, Config, record_type, reference_field = "srgan", SuperResolutionConfig, IMAGE_PAIR, "target"
    buckets = (images.MAX_PIXELS,)

    @classmethod
    def tiny(cls):
        return cls(SuperResolutionConfig(content="pixels", model=SRGANConfig(2, 8, 1), max_size=(20, 24), tile=7,
                                         discriminator=SRGANDiscriminatorConfig(16, 4, 8)))

    def preprocess(self, example, bucket, training):
        o, scale = self.config, self.config.model.upscale
        piece = o.discriminator.image_size // scale if training else None
        small, large = super_resolution_pair(example, scale, o.degradation, piece)
        most = (piece, piece) if training else o.max_size
        inputs = {"pixel_values": fixed_size(images.to_uint8(small), most, 0), "size": tf.shape(small)[:2]}
        return inputs, fixed_size(2.0 * large - 1.0, tuple(scale * side for side in most), PADDING), 1.0

    def build_model(self):
        o = self.config
        generator = SRGANGenerator(o.model, name="generator")
        if o.start_from is not None:
            checkpoints.load_newest(o.start_from, generator)
        if o.stage == "pretrain":
            return generator
        return AdversarialPair(generator, SRGANDiscriminator(o.discriminator, name="discriminator"))

    def loss(self):
        if self.config.stage == "pretrain":
            return pixel_losses
        return SRGANLoss(VGGFeatures.from_pretrained(self.config.vgg) if self.config.content == "vgg" else None)

    def metrics(self):
        return [kind("y", self.config.model.upscale) for kind in (PeakSignalToNoiseRatio, StructuralSimilarity)]

    def _upscale(self, function):
        o, model = self.config, self.config.model
        return lambda image: 0.5 + 0.5 * tiled(function, image, model.upscale, o.tile, model.receptive_radius)

    def decode(self, model, inputs):
        upscale = self._upscale(compiled_once(model, "upscale", lambda x: model(x, training=False), None))
        return [images.to_uint8(upscale(images.to_float(image[:high, :wide]))).numpy()
                for image, (high, wide) in zip(inputs["pixel_values"], np.maximum(inputs["size"], 1))]  # preflight: 0

    def load_inputs(self, path):
        image = images.read_image(path)
        if any(side > most for side, most in zip(image.shape, self.config.max_size)):
            raise TaskError(f"{path}: {image.shape[0]} x {image.shape[1]} pixels, expected at most task.max_size="
                            f"{self.config.max_size}; an export takes any size")
        return {"pixel_values": fixed_size(image, self.config.max_size, 0).numpy(), "size": np.array(image.shape[:2])}

    def pictures(self, inputs, targets, outputs):
        small = images.resize(images.to_float(inputs["pixel_values"]), targets.shape[1:3], "nearest")
        shown = {"input": 2.0 * small - 1.0, "output": outputs, "target": targets}
        return {name: images.to_uint8(0.5 + 0.5 * image).numpy() for name, image in shown.items()}

    def picture(self, inputs, prediction):
        small = inputs["pixel_values"][:inputs["size"][0], :inputs["size"][1]]
        plain = images.to_uint8(images.resize(images.to_float(small), prediction.shape[:2], "bicubic")).numpy()
        return side_by_side([plain, prediction], ["bicubic", self.name])

    def signatures(self, model):
        return image_to_image_signatures(self._upscale(lambda x: model(x, training=False)), self.config.model.upscale)

    def example_requests(self):
        ramp = np.linspace(0, 255, 24 * 36 * 3).astype("uint8").reshape(24, 36, 3)
        return {"serving_default": {"image": [images.encode_png(part).numpy() for part in (ramp, ramp[:15])]}}


TASK = SRGANTask
_ADAM = OptimizerConfig(learning_rate=1e-4, schedule="constant", clip_norm=None)
_PRETRAIN = RunConfig(
    output="runs/srresnet", data=DataConfig("records"), batch_size=16, eval_batch_size=8, steps=1_000_000,
    precision="mixed_bfloat16", steps_per_execution=100, log_every=100, checkpoint_every=10_000, evaluate_every=10_000,
    optimizer=_ADAM, task=SuperResolutionConfig())
RECIPES = {
    "default": _PRETRAIN,
    "adversarial": dataclasses.replace(
        _PRETRAIN, output="runs/srgan", steps=200_000,
        optimizer=dataclasses.replace(_ADAM, schedule="cosine", final_fraction=0.1),
        task=SuperResolutionConfig("adversarial", vgg="timm/vgg19.tv_in1k", start_from="runs/srresnet")),
    "tiny_cpu": RunConfig(
        output="runs/srresnet_tiny", data=DataConfig("records"), batch_size=16, eval_batch_size=1, steps=800,
        log_every=50, checkpoint_every=0, jit_compile=False,
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        task=SuperResolutionConfig(content="pixels", model=SRGANConfig(2, 24, 3, bicubic_skip=True),
                                   discriminator=SRGANDiscriminatorConfig(48, 16, 64))),
}
