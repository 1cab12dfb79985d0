"""The networks and the objective of Godard et al. 2017 in torch's own functions: what ours are compared with.

Written from the paper; the tensors have the names of our folders. NCHW.
"""

import torch
import torch.nn.functional as F


def disparities(config, tensors, x):
    """x [batch, 3, height, width] -> four tensors [batch, 2, height / 2^i, width / 2^i]; `tensors`: {name: tensor}."""

    def conv(name, x, stride=1, activation=F.elu):
        weight = tensors[f"{name}.weight"]
        x = F.conv2d(x, weight, tensors[f"{name}.bias"], stride, (weight.shape[-1] - 1) // 2)
        return activation(x)

    features = []
    if config.encoder == "vgg":
        for i in range(len(config.encoder_hidden_sizes)):
            x = conv(f"encoder.down.{i}", conv(f"encoder.conv.{i}", x), 2)
            features.append(x)
    else:
        x = conv("encoder.conv1", x, 2)
        features = [x, F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)]
        x, number = features[1], 0
        for depth in config.encoder_depths:
            for i in range(depth):
                block, stride = f"encoder.blocks.{number}", 2 if i == depth - 1 else 1
                number += 1
                inner = conv(f"{block}.conv2", conv(f"{block}.conv1", x), stride)
                linear = dict(activation=lambda y: y)
                x = F.elu(conv(f"{block}.conv3", inner, **linear) + conv(f"{block}.shortcut", x, stride, **linear))
            features.append(x)
    found = {}
    for i in reversed(range(len(config.decoder_hidden_sizes))):
        parts = [conv(f"decoder.upconv.{i}", F.interpolate(x, scale_factor=2))]
        parts += [features[i - 1]] if i else []
        parts += [F.interpolate(found[i + 1], scale_factor=2)] if i + 1 in found else []
        x = conv(f"decoder.iconv.{i}", torch.cat(parts, dim=1))
        if i < 4:
            found[i] = config.max_disparity * conv(f"decoder.disp.{i}", x, activation=torch.sigmoid)
    return [found[i] for i in range(4)]


def _warp(image, pixels):
    height, width = image.shape[2:]
    x = torch.arange(width) + pixels[:, 0]
    y = torch.arange(height)[:, None].expand(x.shape)
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return F.grid_sample(image, grid, padding_mode="zeros", align_corners=True)


def _dissimilarity(x, y):
    def mean(image):
        return F.avg_pool2d(image, 3, 1)

    covariance = mean(x * y) - mean(x) * mean(y)
    above = (2 * mean(x) * mean(y) + 0.01**2) * (2 * covariance + 0.03**2)
    below = (mean(x) ** 2 + mean(y) ** 2 + 0.01**2) * (
        mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2 + 0.03**2)
    return ((1 - above / below) / 2).clamp(0, 1)


def losses(views, pairs, alpha=0.85, smooth=0.1, consistency=1.0):
    """Equations 1 to 4. views: left and right [batch, 3, height, width]; pairs as `disparities` gives them -> [batch].
    """

    def each(x):
        return x.mean(dim=(1, 2, 3))

    total = 0
    for i, pair in enumerate(pairs):
        images = [F.interpolate(view, scale_factor=0.5**i, mode="area") for view in views]
        disparity = pair[:, :1], pair[:, 1:]
        for own, sign in ((0, -1), (1, 1)):
            image, d = images[own], disparity[own]
            rebuilt = _warp(images[1 - own], sign * d * image.shape[3])
            total += alpha * each(_dissimilarity(rebuilt, image)) + (1 - alpha) * each((rebuilt - image).abs())
            for axis in (2, 3):
                edges = image.diff(dim=axis).abs().mean(dim=1, keepdim=True)
                total += smooth / 2**i * each(d.diff(dim=axis).abs() * torch.exp(-edges))
            total += consistency * each((_warp(disparity[1 - own], sign * d * image.shape[3]) - d).abs())
    return total
