"""UNet in plain torch (Ronneberger et al. 2015, figure 1, "same" convolutions): what ours is compared with.

Written from the paper; the modules have our names, so that a state dict fits as it is.
"""

import torch
from torch import nn


class _Convolutions(nn.Module):
    def __init__(self, inputs, channels, config):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1, bias=config.use_bias)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=config.use_bias)
        if config.use_batch_norm:
            self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        else:
            self.norm1 = self.norm2 = None

    def forward(self, x):
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = conv(x)
            x = torch.relu(x if norm is None else norm(x))
        return x


class _Up(nn.Module):
    def __init__(self, inputs, channels, config):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(inputs, channels, 2, stride=2)
        self.block = _Convolutions(2 * channels, channels, config)

    def forward(self, x, skipped):
        return self.block(torch.cat([skipped, self.upsample(x)], 1))


class _Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes = config.hidden_sizes
        self.down_blocks = nn.ModuleList(_Convolutions(inputs, size, config)
                                         for inputs, size in zip((config.num_channels, *sizes), sizes))
        self.up_blocks = nn.ModuleList(_Up(inputs, size, config)
                                       for inputs, size in zip(sizes[::-1], sizes[-2::-1]))

    def forward(self, x):
        skipped = []
        for block in self.down_blocks[:-1]:
            skipped.append(block(x))
            x = torch.max_pool2d(skipped[-1], 2)
        x = self.down_blocks[-1](x)
        for block, features in zip(self.up_blocks, reversed(skipped)):
            x = block(x, features)
        return x


class TorchUNet(nn.Module):
    """float [batch, channels, height, width] -> logits [batch, config.num_labels, height, width]."""

    def __init__(self, config):
        super().__init__()
        self.unet = _Body(config)
        self.head = nn.Conv2d(config.hidden_sizes[0], config.num_labels, 1)

    def forward(self, x):
        return self.head(self.unet(x))
