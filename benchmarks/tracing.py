"""CPU time to trace a ResNet's forward and backward pass for virtual replicas: `SyncBatchNormalization`, Keras' layer.

    python -m benchmarks.tracing [resnet8 resnet50] [--replicas 2]
"""

import argparse
import time

import benchmarks.side_by_side  # noqa: F401  before TensorFlow


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["resnet8", "resnet50"])
    parser.add_argument("--replicas", type=int, default=2)
    arguments = parser.parse_args()

    from tfhf.strategy import make_runtime

    strategy = make_runtime(f"cpu:{arguments.replicas}").strategy   # virtual devices come first
    import keras

    from tfhf.layers import conv_norm

    ours = conv_norm.SyncBatchNormalization
    for size in arguments.sizes:
        taken = {}
        for name, layer in (("ours", ours), ("keras", keras.layers.BatchNormalization)):
            conv_norm.SyncBatchNormalization = layer
            taken[name] = _seconds(strategy, size)
        print(f"{size}, {arguments.replicas} replicas: ours {taken['ours']:.1f} s, Keras' {taken['keras']:.1f} s of a "
              f"CPU; ratio {taken['ours'] / taken['keras']:.2f}", flush=True)


def _seconds(strategy, size):
    import tensorflow as tf

    from tfhf.models.resnet.config import ResNetConfig
    from tfhf.models.resnet.model import ResNetForImageClassification

    with strategy.scope():
        model = ResNetForImageClassification(ResNetConfig.of_size(size, num_labels=7))

    def loss(pixels):
        return tf.reduce_sum(tf.square(model({"pixel_values": pixels}, training=True)))

    def step(pixels):
        weights = [variable.value for variable in model.trainable_variables]
        return [tf.reduce_sum(part) for part in tf.gradients(loss(pixels), weights)]

    begin = time.process_time()
    tf.function(lambda pixels: strategy.run(step, (pixels,))).get_concrete_function(tf.TensorSpec([2, 32, 32, 3]))
    return time.process_time() - begin


if __name__ == "__main__":
    main()
