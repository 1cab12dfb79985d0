"""Made pictures whose depth is known: boxes and discs over a floor, in a haze that thickens with the distance."""

import numpy as np
import tensorflow as tf

SCALE = 0.001   # metres in one unit of the 16-bit PNG
HAZE = np.array([0.75, 0.8, 0.9])


def scene(seed, height=48, width=64):
    """(uint8 [height, width, 3], float64 [height, width] in metres, 1.2 to 9); the floor comes nearer downwards."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    depth = np.interp(rows, [0, rng.uniform(0.2, 0.6) * height, height], [9.0, 9.0, rng.uniform(2.0, 4.0)])
    colour = np.broadcast_to(rng.uniform(0.1, 0.9, 3), (height, width, 3)).copy()
    for metres in np.sort(rng.uniform(1.2, 8.5, rng.integers(3, 8)))[::-1]:   # the nearest comes last, in front
        size = rng.uniform(0.4, 1.0) * height / metres
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        across, down = np.abs(columns - column), np.abs(rows - row)
        inside = across**2 + down**2 < size**2 if rng.uniform() < 0.5 else np.maximum(across, down) < size
        depth[inside], colour[inside] = metres, rng.uniform(0.1, 0.9, 3)
    colour = colour * rng.uniform(0.8, 1.2, (height, width, 1))
    clear = np.exp(-depth / 4.0)[..., None]
    image = colour * clear + HAZE * (1.0 - clear)
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype("uint8"), depth


def example(seed, height=48, width=64, identity=None):
    """A record of image_depth, a tenth of its depth not measured."""
    image, depth = scene(seed, height, width)
    values = np.rint(depth / SCALE).astype("uint16")
    values[np.random.default_rng(seed + 10**6).uniform(size=depth.shape) < 0.1] = 0
    return {"id": identity or f"scene-{seed}", "image": tf.io.encode_png(image).numpy(),
            "depth": tf.io.encode_png(values[..., None]).numpy(), "depth_scale": SCALE, "pixels": height * width}


def examples(count, first=0, height=48, width=64):
    """`count` records of different scenes."""
    return [example(first + number, height, width) for number in range(count)]
