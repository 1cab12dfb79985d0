"""SRGAN's objectives (Ledig et al. 2017, section 2.2), one value per example.

Images are [batch, height, width, 3] in [-1, 1]. A target may be padded to a size with PADDING, as whole images are in
evaluation: what is padded does not count.
"""

from keras import ops

from tfhf.gan import AdversarialLoss

PADDING = -100.0
# Equation 5's features are divided by 12.75: their squared error then has about the size of the pixels' (section 3.2).
FEATURE_SCALE = 1.0 / 12.75


def pixel_losses(targets, outputs):
    """Mean squared error over the pixels that are not padded (equation 4), float32 [batch]."""
    targets, outputs = ops.cast(targets, "float32"), ops.cast(outputs, "float32")
    known = ops.cast(targets > 0.5 * PADDING, "float32")
    errors = known * ops.square(outputs - targets)
    return ops.sum(errors, axis=(1, 2, 3)) / ops.maximum(ops.sum(known, axis=(1, 2, 3)), 1.0)


class SRGANLoss(AdversarialLoss):
    """Content loss plus a thousandth of the adversarial one (equation 3); the discriminator's cross-entropy.

    Called with targets and outputs it is the squared error of the pixels, which evaluation tells in either stage.

    Args:
        features: a network of images [batch, height, width, 3] in [0, 1] to feature maps, such as `VGGFeatures`, whose
            squared error is the content loss (equation 5); None: that of the pixels (equation 4).
        adversarial_weight: 1e-3 in the paper.
    """

    def __init__(self, features=None, adversarial_weight=1e-3):
        self.features = features
        self.adversarial_weight = adversarial_weight

    def __call__(self, targets, fakes):
        return pixel_losses(targets, fakes)

    def content(self, targets, fakes):
        """float32 [batch]; of features the mean over places and channels, which equation 5 leaves open."""
        if self.features is None:
            return pixel_losses(targets, fakes)
        real, fake = (self.features(0.5 * image + 0.5) for image in (targets, fakes))
        return ops.mean(ops.square(FEATURE_SCALE * (fake - real)), axis=(1, 2, 3))

    def generator(self, targets, fakes, real_outputs, fake_outputs):
        """l_SR of equation 3; -log D(G(x)) = softplus(-logit)."""
        return self.content(targets, fakes) + self.adversarial_weight * ops.softplus(-fake_outputs)[:, 0]

    def discriminator(self, real_outputs, fake_outputs):
        """Minus the expression of equation 2: cross-entropy of originals as 1 and of fakes as 0."""
        return (ops.softplus(-real_outputs) + ops.softplus(fake_outputs))[:, 0]

    def measures(self, targets, fakes):
        """The squared error of the pixels, which the content loss on features does not show: {"pixel_loss"}."""
        losses = pixel_losses(targets, fakes)
        return {"pixel_loss": (ops.sum(losses), ops.shape(losses)[0])}
