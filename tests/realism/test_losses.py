"""The losses of a composite: nothing where it is right, more where it is worse, and gradients that can be used."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from realism import Discriminator, Shape
from realism.losses import colour_loss, convolution_features, perceptual_loss, vgg_features
from realism.vgg import Features as Vgg


def pictures(*, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two random pictures and a mask of their left half."""
    torch.manual_seed(seed)
    mask = torch.zeros(2, 1, 32, 48)
    mask[..., :24] = 1
    return torch.rand(2, 3, 32, 48), mask


def features_of_two_kinds() -> list[object]:
    """Return the features of a small realism network and of a narrow VGG-16."""
    torch.manual_seed(3)
    small = Discriminator(Shape(side=32, width=8, hidden=32))
    return [convolution_features(small), vgg_features(Vgg(width=4).requires_grad_(requires_grad=False))]


def test_colour_loss_is_the_mean_absolute_difference() -> None:
    """By hand: half of the values off by 0.2, the rest right."""
    first = torch.zeros(1, 3, 2, 2)
    second = first.clone()
    second[..., 0] = 0.2
    assert float(colour_loss(first, second)) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [0, 1])
def test_perceptual_loss_is_nothing_for_the_wanted_picture_and_grows(kind: int) -> None:
    """0 where both are one picture, more the farther they are apart."""
    features = features_of_two_kinds()[kind]
    wanted, mask = pictures()
    noise = torch.randn(wanted.shape)
    losses = [float(perceptual_loss(wanted + size * noise, wanted, mask, features=features)) for size in (0, 0.05, 0.2)]
    assert losses[0] == 0
    assert 0 < losses[1] < losses[2]


@pytest.mark.parametrize("kind", [0, 1])
def test_gradient_reaches_the_picture_and_stays_finite(kind: int) -> None:
    """Black, white and out of range: the gradient is finite, and not zero where the picture is in range."""
    features = features_of_two_kinds()[kind]
    wanted, mask = pictures()
    composite = wanted.roll(1, dims=2)
    composite[..., :4], composite[..., 4:8], composite[..., 8:10] = 0, 1, -0.5
    composite.requires_grad_()
    perceptual_loss(composite, wanted, mask, features=features).backward()
    assert composite.grad is not None
    assert bool(torch.isfinite(composite.grad).all())
    assert bool((composite.grad[..., 12:].abs().sum((2, 3)) > 0).all())


def test_features_are_frozen() -> None:
    """What pictures are compared by does not learn, and its normalization does not drift."""
    network = Discriminator(Shape(side=32, width=8, hidden=32)).train()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    features = convolution_features(network)
    wanted, mask = pictures()
    composite = (wanted * 0.5).requires_grad_()
    perceptual_loss(composite, wanted, mask, features=features).backward()
    assert all(bool((before[name] == values).all()) for name, values in network.state_dict().items())
    assert all(values.grad is None for values in network.parameters())


def test_network_without_convolution_is_refused() -> None:
    """A network that has only the other branches has nothing to compare."""
    with pytest.raises(ValueError, match="convolution"):
        convolution_features(Discriminator(Shape(side=32, branches=("quantiles",), hidden=32)))
    with pytest.raises(ValueError, match="convolution"):
        convolution_features(nn.Linear(2, 2))
