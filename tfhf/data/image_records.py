"""Examples of the image record types, for the writers: every file is decoded once and kept as it was.

Each function takes the bytes of its files and their `names`, which errors call them by, and gives the example to pack.
They raise ImageError: a file that cannot be decoded, sizes that do not go together, depth without a valid pixel.
"""

from tfhf.data.image import ImageError, depth_size, image_size


def image_label(key, image, label, name):
    """-> image_label example; label: the number of the class."""
    height, width = image_size(image, name)
    return {"id": key, "image": image, "label": label, "pixels": height * width}


def image_pair(key, image, target, names):
    """-> image_pair example. The target has the image's size, or a whole multiple of it; image b"": none is kept."""
    large = image_size(target, names[1])
    small = image_size(image, names[0]) if image else large
    scale = large[0] // small[0]
    if scale < 1 or large != (scale * small[0], scale * small[1]):
        raise ImageError(f"{names[0]} has {_size(small)} pixels and {names[1]} {_size(large)}, expected the same size, "
                         "or a whole multiple of it")
    return {"id": key, "image": image, "target": target, "pixels": small[0] * small[1]}


def stereo(key, left, right, names, disparity=b"", disparity_scale=1.0):
    """-> stereo example. names: of left and right, and of the disparity where there is one."""
    size = image_size(left, names[0])
    _same_size(size, names[0], image_size(right, names[1]), names[1])
    if disparity:
        _same_size(size, names[0], depth_size(disparity, names[2]), names[2])
    return {"id": key, "left": left, "right": right, "disparity": disparity, "disparity_scale": disparity_scale,
            "pixels": size[0] * size[1]}


def image_depth(key, image, depth, depth_scale, names):
    """-> image_depth example; metres = value of the depth file * depth_scale."""
    size = image_size(image, names[0])
    _same_size(size, names[0], depth_size(depth, names[1]), names[1])
    return {"id": key, "image": image, "depth": depth, "depth_scale": depth_scale, "pixels": size[0] * size[1]}


def _same_size(size, name, other_size, other_name):
    if size != other_size:
        raise ImageError(f"{name} has {_size(size)} pixels and {other_name} {_size(other_size)}, expected one size "
                         "(height x width)")


def _size(size):
    return f"{size[0]} x {size[1]}"
