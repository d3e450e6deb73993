"""The fusion network: what it starts from, what it keeps, and how one composition is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realism.fusion import CONTEXT, STRIDE, TILE, FusionNet, FusionShape, fuse, reach_of, soften

SMALL = FusionShape(widths=(4, 6, 8, 8), detail=4)


def network(shape: FusionShape = SMALL, *, seed: int = 0, moved: float = 0.2) -> FusionNet:
    """Return a network whose output layer is not zero, so that it does something."""
    torch.manual_seed(seed)
    model = FusionNet(shape).eval()
    torch.nn.init.normal_(model.out.weight, std=moved)
    return model


def scene(height: int = 90, width: int = 130, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return foreground, background and mask of a disc, all random but the mask."""
    rng = np.random.default_rng(seed)
    foreground, background = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < 20**2).astype(np.uint8) * 255
    return foreground, background, mask


def test_network_that_learnt_nothing_is_a_feathered_copy() -> None:
    """The output layer starts at zero, so the first composite is the foreground over the background by a soft mask."""
    foreground, background, mask = scene()
    fused = fuse(FusionNet(SMALL), foreground, background, mask)
    deep = np.s_[40:50, 60:70]
    assert np.array_equal(fused.picture[deep], foreground[deep])
    assert np.array_equal(fused.picture[:20], background[:20])
    assert 100 < int(fused.alpha[45, 65 - 20]) < 155


@pytest.mark.parametrize("shape", [(90, 130), (33, 47), (16, 16), (200, 75)])
def test_any_size_goes_through(shape: tuple[int, int]) -> None:
    """Height and width need not be multiples of anything."""
    foreground, background, mask = scene(*shape)
    fused = fuse(network(), foreground, background, mask)
    assert fused.picture.shape == fused.raw.shape == (*shape, 3)
    assert fused.alpha.shape == shape
    assert fused.picture.dtype == np.uint8


def test_background_is_the_true_one_away_from_the_mask() -> None:
    """Farther from the mask than `reach_of` every pixel is the background's, whatever the network answers."""
    foreground, background, mask = scene()
    fused = fuse(network(moved=5), foreground, background, mask)
    rows, columns = np.mgrid[:90, :130]
    away = np.hypot(rows - 45, columns - 65) > 20 + reach_of(mask) + 1
    assert np.array_equal(fused.picture[away], background[away])
    assert not fused.alpha[away].any()
    assert not np.array_equal(fused.raw[away], background[away])


def test_empty_mask_gives_the_background() -> None:
    """Where there is nothing to lay over, the background comes out as it went in."""
    foreground, background, mask = scene()
    fused = fuse(network(), foreground, background, np.zeros_like(mask))
    assert np.array_equal(fused.picture, background)
    assert np.array_equal(fused.raw, background)


def test_same_arguments_same_bytes_and_nothing_is_written_into_them() -> None:
    """Twice the same call gives the same bytes, with another number of threads too; arguments stay."""
    layers = scene()
    before = [layer.copy() for layer in layers]
    threads = torch.get_num_threads()
    first = fuse(network(), *layers)
    torch.set_num_threads(3)
    try:
        second = fuse(network(), *layers)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert first.raw.tobytes() == second.raw.tobytes()
    assert all(np.array_equal(old, new) for old, new in zip(before, layers, strict=True))


def test_bool_mask_is_a_mask_of_0_and_255() -> None:
    """A mask may be bool."""
    foreground, background, mask = scene()
    model = network()
    assert np.array_equal(
        fuse(model, foreground, background, mask > 0).raw, fuse(model, foreground, background, mask).raw
    )


def test_tiles_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window made in tiles is the window made at once, to a level: the context is as far as the network looks."""
    foreground, background, mask = scene(300, 420)
    mask[20:280, 30:400] = 255
    model = network()
    whole = fuse(model, foreground, background, mask)
    monkeypatch.setattr("realism.fusion.TILE", 128)
    tiled = fuse(model, foreground, background, mask)
    assert TILE % STRIDE == CONTEXT % STRIDE == 0
    assert np.abs(whole.raw.astype(int) - tiled.raw).max() <= 1


def test_background_reaches_the_result_through_its_own_encoder() -> None:
    """Two streams have weights of their own; one stream has one encoder and fewer weights."""
    two, one = FusionNet(SMALL), FusionNet(FusionShape(streams=1, widths=SMALL.widths, detail=4))
    assert [len(model.encoders) for model in (two, one)] == [2, 1]
    assert two.encoders[0].state_dict()["stem.1.0.weight"] is not two.encoders[1].state_dict()["stem.1.0.weight"]
    count = [sum(values.numel() for values in model.parameters()) for model in (one, two)]
    assert count[0] < count[1]


def test_default_networks_fit_into_the_package() -> None:
    """Both stages together stay under 8 MB, and one under 1.5 million weights."""
    count = sum(values.numel() for values in FusionNet(FusionShape()).parameters())
    assert count < 1_000_000
    assert 2 * 4 * count < 8_000_000


@pytest.mark.parametrize("head", ["matte", "paint"])
@pytest.mark.parametrize("streams", [1, 2])
def test_every_part_learns(streams: int, head: str) -> None:
    """A gradient reaches every weight once the output layer has moved."""
    model = network(FusionShape(streams=streams, widths=SMALL.widths, detail=4, head=head)).train()  # type: ignore[arg-type]
    layers = (torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48), torch.rand(2, 1, 32, 48))
    composite, alpha = model(*layers)
    (composite.square().mean() + alpha.square().mean()).backward()
    silent = [name for name, values in model.named_parameters() if values.grad is None or not values.grad.abs().sum()]
    assert not [name for name in silent if name != "out.bias"]


def test_soft_mask_is_a_ramp_of_six_pixels() -> None:
    """The mean over 7 x 7 twice: 1 and 0 farther than 6 pixels from a straight edge, half way at it."""
    mask = torch.zeros(1, 1, 20, 40)
    mask[..., 20:] = 1
    soft = soften(mask)[0, 0, 10]
    assert soft[:14].abs().max() == 0
    assert soft[26:].min() == pytest.approx(1)
    assert soft[19] + soft[20] == pytest.approx(1)
    assert bool((soft.diff() >= 0).all())


def test_answer_that_is_no_number_is_an_error() -> None:
    """A network with NaN in it does not make pictures."""
    model = network()
    with torch.no_grad():
        model.out.bias.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(ArithmeticError, match="no number"):
        fuse(model, *scene())


def test_wrong_arguments_are_named() -> None:
    """Another dtype, another size, another shape of network: an error that says so."""
    foreground, background, mask = scene()
    with pytest.raises(TypeError, match="uint8"):
        fuse(network(), foreground.astype(np.float32), background, mask)
    with pytest.raises(ValueError, match="one size"):
        fuse(network(), foreground[1:], background, mask)
    for shape in (FusionShape(streams=3), FusionShape(widths=(1, 4, 4, 4)), FusionShape(head="other")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"streams|widths|head"):
            FusionNet(shape)
