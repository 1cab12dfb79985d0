"""Signatures that tasks share, for `Task.signatures`."""

import numpy as np
import tensorflow as tf

from tfhf.data.audio_graph import decode_with_lengths
from tfhf.data.image import (MAX_CALL_PIXELS, MAX_PIXELS, decode_image, encode_depth, encode_png, map_examples,
                             one_by_one, resize, to_float, to_uint8)
from tfhf.data.shapes import to_int16


def waveform_signatures(model, max_samples, answer) -> dict:
    """The signatures of a model that takes waveforms with their lengths, such as wav2vec2.

    `serving_default`: wav string [batch], bytes of WAV files of any rate -> answer(logits). `raw`: input_values float32
    [batch, max_samples], normalised as the feature extractor does, and input_lengths int32 [batch] -> logits.

    Args:
        model: of {"input_values", "input_lengths"}, int16 or float waveforms at 16 kHz, to logits.
        max_samples: length that clips are filled up to; a longer one is an error.
        answer: function of the logits to a dict of named tensors, of core TensorFlow operations.
    """
    def logits_of(input_values, input_lengths):
        return model({"input_values": input_values, "input_lengths": input_lengths}, training=False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="wav")])
    def serving_default(wav):
        audio, lengths = decode_with_lengths(wav, max_samples)
        return answer(logits_of(to_int16(audio), lengths))

    @tf.function(input_signature=[tf.TensorSpec([None, max_samples], name="input_values"),
                                  tf.TensorSpec([None], tf.int32, name="input_lengths")])
    def raw(input_values, input_lengths):
        return {"logits": logits_of(input_values, input_lengths)}

    return {"serving_default": serving_default, "raw": raw}


def text_label_signatures(model, inputs_of, classes) -> dict:
    """The signatures of a model that gives a text one of several labels.

    `serving_default`: text string [batch], UTF-8 -> label string [batch] and probabilities float32 [batch, classes].
    `raw`: the inputs of the model, int32 [batch, max_tokens] -> logits.

    Args:
        model: of inputs to logits [batch, classes].
        inputs_of: function of text string [batch] to the model's inputs, of core TensorFlow operations.
        classes: names, in the order of the logits.
    """
    classes = np.array(classes)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serving_default(text):
        logits = model(inputs_of(text), training=False)
        return {"label": tf.gather(tf.constant(classes), tf.argmax(logits, axis=-1)),
                "probabilities": tf.nn.softmax(logits)}

    specs = inputs_of(tf.constant(["."]))
    names = sorted(specs)

    @tf.function(input_signature=[tf.TensorSpec([None, specs[name].shape[1]], tf.int32, name=name) for name in names])
    def raw(*inputs):
        return {"logits": model(dict(zip(names, inputs)), training=False)}

    return {"serving_default": serving_default, "raw": raw}


def pixels_of(image, size):
    """uint8 [any height, any width, channels] -> uint8 [*size, channels], resized; what a model of one size gets."""
    return tf.ensure_shape(tf.cast(tf.round(resize(image, size)), tf.uint8), [*size, image.shape[-1]])


def image_label_signatures(model, pixels_of_bytes, classes) -> dict:
    """The signatures of a model that gives an image one of several labels.

    `serving_default`: image string [batch], bytes of image files, each of its own size -> label string [batch]
    and probabilities float32 [batch, classes]. `raw`: pixel_values uint8 [batch, height, width, channels] -> logits
    float32 [batch, classes].

    Args:
        model: of {"pixel_values"} to logits.
        pixels_of_bytes: function of the bytes of one file, string [], to uint8 [height, width, channels], all known, of
            core TensorFlow operations.
        classes: names, in the order of the logits.
    """
    classes = np.array(classes)
    pixels = tf.function(pixels_of_bytes).get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs
    spec = tf.TensorSpec(pixels.shape, tf.uint8)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def serving_default(image):
        values = map_examples(pixels_of_bytes, image, spec, one_by_one(image))
        logits = model({"pixel_values": values}, training=False)
        return {"label": tf.gather(tf.constant(classes), tf.argmax(logits, axis=-1)),
                "probabilities": tf.nn.softmax(logits)}

    @tf.function(input_signature=[tf.TensorSpec([None, *spec.shape], tf.uint8, name="pixel_values")])
    def raw(pixel_values):
        return {"logits": model({"pixel_values": pixel_values}, training=False)}

    return {"serving_default": serving_default, "raw": raw}


def image_depth_signatures(depth_of, size, scale, name="depth") -> dict:
    """The signatures of a model that gives every pixel of an image its depth, or its disparity.

    `serving_default`: image string [batch], bytes of image files of any size -> depth float32 [batch, height,
    width] of `size`, and depth_png string [batch], 16-bit grey PNGs, each of its own image's size, of which a value
    times `scale` is the depth. `raw`: pixel_values float32 [batch, height, width, 3] in [0, 1], of `size` -> depth.

    Args:
        depth_of: function of {"pixel_values": uint8 or float [batch, height, width, 3]} to float32 [batch, height,
            width, 1], of core TensorFlow operations.
        size: (height, width).
        scale: metres in one unit of the PNG; of a disparity, parts of the width.
        name: what the outputs are called, NAME and NAME_png.
    """
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def serving_default(image):
        def read(data):
            decoded = decode_image(data)
            return pixels_of(decoded, size), tf.shape(decoded)[:2]

        specs = tf.TensorSpec([*size, 3], tf.uint8), tf.TensorSpec([2], tf.int32)
        alone = one_by_one(image, MAX_CALL_PIXELS // 2)   # the answer has two bytes for each pixel
        pixels, own_sizes = map_examples(read, image, specs, alone)
        depth = depth_of({"pixel_values": pixels})
        pngs = map_examples(lambda pair: encode_depth(resize(*pair), scale), (depth, own_sizes),
                            tf.TensorSpec([], tf.string), alone)
        return {name: depth[..., 0], f"{name}_png": pngs}

    @tf.function(input_signature=[tf.TensorSpec([None, *size, 3], name="pixel_values")])
    def raw(pixel_values):
        return {name: depth_of({"pixel_values": pixel_values})[..., 0]}

    return {"serving_default": serving_default, "raw": raw}


def image_to_image_signatures(upscale, factor=1) -> dict:
    """The signatures of a model that makes one image of another, such as super-resolution; images of any size.

    `serving_default`: image string [batch], bytes of image files, each of its own size -> image string [batch],
    bytes of PNG files. `raw`: pixel_values float32 [batch, height, width, 3] in [0, 1] -> image, such as well.

    Args:
        upscale: function of one float32 [height, width, 3] in [0, 1] to one such image, of core TensorFlow operations;
            `tiled` makes one that bounds the memory.
        factor: how many times longer the answer's sides are. Images whose answers would have more than MAX_PIXELS
            in all are an InvalidArgumentError, before one is decoded.
    """
    max_pixels = MAX_PIXELS // factor**2
    spec = tf.TensorSpec([None, None, 3])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")], autograph=False)
    def serving_default(image):
        def answer(data):
            return encode_png(to_uint8(upscale(to_float(decode_image(data, max_pixels=max_pixels)))))

        with tf.control_dependencies([one_by_one(image, max_pixels)]):   # the answers lie in memory until the last
            image = tf.identity(image)
        return {"image": tf.map_fn(answer, image, fn_output_signature=tf.string, parallel_iterations=1)}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], name="pixel_values")], autograph=False)
    def raw(pixel_values):
        outputs = tf.map_fn(upscale, pixel_values, fn_output_signature=spec, parallel_iterations=1)
        return {"image": tf.clip_by_value(outputs, 0.0, 1.0)}

    return {"serving_default": serving_default, "raw": raw}


def tiled(function, image, scale, middle, overlap):
    """`function` of an image, in tiles where the image is larger than one: memory is bounded and there is no seam.

    A tile gives its middle, what lies `overlap` pixels and more from its sides. So each output pixel is computed from
    all that it depends on; at the image's sides, where tiles end as well, a convolution pads as it does without tiles.

    Args:
        function: float32 [1, height, width, channels] -> [1, height * scale, width * scale, channels], with no
            operation over the whole image.
        image: float32 [height, width, channels].
        scale: whole number.
        middle: height and width of what a tile gives, in pixels of `image`; it sees 2 * overlap more.
        overlap: how far an output pixel sees, in pixels of `image`.

    Returns:
        float32 [height * scale, width * scale, channels].
    """
    size = tf.shape(image)[:2]
    window = tf.minimum(size, middle + 2 * overlap)
    middle = tf.where(size == window, size, middle)   # [2]; along a side that fits there is one tile
    counts = -(-size // middle)

    def one(number):
        begin = tf.stack([number // counts[1], number % counts[1]]) * middle         # of what this tile gives
        corner = tf.clip_by_value(begin - overlap, 0, size - window)                 # of what it sees
        part = image[corner[0]:corner[0] + window[0], corner[1]:corner[1] + window[1]]
        output = tf.cast(tf.convert_to_tensor(function(part[None])), tf.float32)[0]
        begin = (begin - corner) * scale
        output = output[begin[0]:begin[0] + middle[0] * scale, begin[1]:begin[1] + middle[1] * scale]
        missing = middle * scale - tf.shape(output)[:2]                              # the last ones may be smaller
        return tf.pad(output, [[0, missing[0]], [0, missing[1]], [0, 0]])

    spec = tf.TensorSpec([None, None, image.shape[-1]])
    tiles = tf.map_fn(one, tf.range(tf.reduce_prod(counts)), fn_output_signature=spec, parallel_iterations=1)
    # [rows * columns, height, width, channels] -> [rows * height, columns * width, channels]
    tiles = tf.reshape(tiles, tf.concat([counts, middle * scale, [image.shape[-1]]], 0))
    whole = tf.reshape(tf.transpose(tiles, [0, 2, 1, 3, 4]), tf.concat([counts * middle * scale, [image.shape[-1]]], 0))
    return whole[:size[0] * scale, :size[1] * scale]
