"""Random changes of images, for a task's `preprocess` when it trains: in tf.data, or on the device.

Each function takes the example's own seed ("seed" in the record given to `preprocess`, int32 [2]) and draws from it by
stateless ops only, so a batch is a function of the run's seed and the step. All may be given the same seed: each mixes
in a number of its own. `images` is one image or a list of them that get the same draw, such as an image and its target;
what comes back has the same form.
"""

import tensorflow as tf

from tfhf.data.image import resize

_FLIP, _CROP, _RESIZED_CROP, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _MIXUP = range(8)


def random_flip(seed, images):
    """Mirrors [height, width, channels] left to right, in half of the draws.

    (A stereo pair that is mirrored must also change places.)
    """
    across = _uniform(seed, _FLIP, 0.0, 1.0) < 0.5
    return _each(images, lambda image: tf.cond(across, lambda: tf.reverse(image, [1]), lambda: tf.identity(image)))


def random_crop(seed, images, size, scales=None):
    """Cuts a window of `size` (height, width) at a random place out of [height, width, channels].

    Args:
      scales: of a list, how many times as large as the window each image and its own window are: (1, 4) for an image
        and the same in four times the size. None: all alike.
    Raises InvalidArgumentError when the graph runs: an image that is smaller than its window, or not `scales` times the
    others' size.
    """
    several = isinstance(images, (list, tuple))
    scales = scales or (1,) * (len(images) if several else 1)
    if len(scales) != (len(images) if several else 1):
        raise ValueError(f"random_crop: {len(scales)} scales, expected {len(images) if several else 1}, one per image")
    listed = [tf.convert_to_tensor(image) for image in (images if several else [images])]
    base = tf.shape(listed[0])[:2] // scales[0]
    checks = [tf.debugging.Assert(tf.reduce_all(base >= size), [tf.strings.join(
        ["RecordError: random_crop: an image of ", _size(base), " pixels, expected at least ", _size(size)])])]
    checks += [tf.debugging.Assert(tf.reduce_all(tf.equal(tf.shape(image)[:2], base * scale)), [tf.strings.join(
        ["RecordError: random_crop: an image of ", _size(tf.shape(image)[:2]), " pixels, expected ",
         _size(base * scale), f", {scale} times the others'"])]) for image, scale in zip(listed, scales)]
    with tf.control_dependencies([check for check in checks if check is not None]):   # None: eager, done already
        places = _uniform(seed, _CROP, 0.0, 1.0, [2])
    room = tf.cast(base - size + 1, tf.float32)
    begin = tf.minimum(tf.cast(places * room, tf.int32), base - size)   # the product may round up to `room`
    cut = []
    for image, scale in zip(listed, scales):
        top, left = tf.unstack(begin * scale)
        window = image[top:top + size[0] * scale, left:left + size[1] * scale]
        cut.append(tf.ensure_shape(window, [size[0] * scale, size[1] * scale, image.shape[-1]]))
    return cut if several else cut[0]


def random_resized_crop(seed, image, size, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """A random part of [height, width, channels], made `size` (height, width) -> float32 of the same unit.

    The crop of the Inception networks (Szegedy et al. 2015, section 6): its share of the image's area and its
    width / height are drawn uniformly from `area` and `ratio`; where ten draws do not fit, it is the whole image.
    """
    begin, window, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), tf.zeros([1, 0, 4]), _own(seed, _RESIZED_CROP), min_object_covered=0.0, area_range=area,
        aspect_ratio_range=ratio, max_attempts=10, use_image_if_no_bounding_boxes=True)
    part = tf.ensure_shape(tf.slice(image, begin, window), [None, None, image.shape[-1]])
    return tf.ensure_shape(resize(part, size), [*size, image.shape[-1]])


def random_colour(seed, images, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0):
    """Changes the colours of float32 RGB [height, width, 3] in [0, 1], which they stay in.

    In this order, each by a factor drawn from [1 - x, 1 + x], never below 0: brightness; contrast, the distance from
    the image's mean grey; saturation, the distance from each pixel's grey. Then the hue is turned by a share of the
    circle drawn from [-hue, hue]. 0 leaves a step out.
    """
    def jitter(image):
        if image.dtype != tf.float32:
            raise ValueError(f"random_colour: an image of {image.dtype.name}, expected float32 in [0, 1] (to_float)")
        if brightness:
            image = _clipped(image * factor(_BRIGHTNESS, brightness))
        if contrast:
            mean = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
            image = _clipped(mean + (image - mean) * factor(_CONTRAST, contrast))
        if saturation:
            grey = tf.image.rgb_to_grayscale(image)
            image = _clipped(grey + (image - grey) * factor(_SATURATION, saturation))
        if hue:
            image = _clipped(tf.image.adjust_hue(image, _uniform(seed, _HUE, -hue, hue)))
        return image

    def factor(number, spread):
        return _uniform(seed, number, max(0.0, 1.0 - spread), 1.0 + spread)

    return _each(images, jitter)


def mixup_share(seed, alpha):
    """The example's own share in MixUp (Zhang et al. 2017, section 2), float32 [] in [0, 1], of Beta(alpha, alpha).

    Model and loss mix by it, on the device (tfhf/layers/mixup.py).
    """
    # Beta is the share of one of two Gammas. Both are 0, in float32, about never.
    own, other = tf.unstack(tf.random.stateless_gamma([2], _own(seed, _MIXUP), alpha))
    return tf.math.divide_no_nan(own, own + other)


def _each(images, function):
    return [function(image) for image in images] if isinstance(images, (list, tuple)) else function(images)


def _size(shape):
    """(height, width) -> string [], "12 x 17" """
    return tf.strings.reduce_join(tf.strings.as_string(tf.convert_to_tensor(shape)), separator=" x ")


def _own(seed, number):
    """A seed for one of the draws above, int32 [2]"""
    return tf.random.fold_in(tf.cast(seed, tf.int32), number)


def _uniform(seed, number, low, high, shape=()):
    return tf.random.stateless_uniform(shape, _own(seed, number), low, high)


def _clipped(image):
    return tf.clip_by_value(image, 0.0, 1.0)
