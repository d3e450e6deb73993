"""VGG-16: the layers are the published ones, torchvision's files are read, others refused, and a network is built on it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from realism import Calibration, Checkpoint, load_checkpoint, prepare, save_checkpoint, score_crops
from realism.networks import ARCHITECTURES, make_network
from realism.score import BATCH
from realism.vgg import IMAGENET_MEAN, IMAGENET_STD, LAYERS, Features, VggDiscriminator, VggShape, load_vgg16

CONVOLUTIONS = {
    0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
    17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip
POOLS = (4, 9, 16, 23, 30)
SMALL = VggShape(side=32, width=4, hidden=16)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute with one thread: small layers spend their time waiting for a second one on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def imagenet() -> OrderedDict[str, Tensor]:
    """Return random weights under the names and in the shapes of torchvision's file, its classifier shortened."""
    generator = torch.Generator().manual_seed(0)
    weights = OrderedDict()
    for place, (out, channels) in CONVOLUTIONS.items():
        scale = (2 / (9 * channels)) ** 0.5
        weights[f"features.{place}.weight"] = scale * torch.randn((out, channels, 3, 3), generator=generator)
        weights[f"features.{place}.bias"] = 0.1 * torch.randn(out, generator=generator)
    weights["classifier.6.bias"] = torch.zeros(1000)
    return weights


@pytest.fixture(scope="module")
def imagenet_file(imagenet: OrderedDict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return them in the format that torchvision's file has: the one before torch's zip."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(imagenet, path, _use_new_zipfile_serialization=False)
    return path


def crops_of(seed: int, *, side: int, count: int) -> np.ndarray:
    """Return noise with masks."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 4), dtype=np.uint8)


def test_features_are_the_published_layers(imagenet: OrderedDict[str, Tensor], imagenet_file: Path) -> None:
    """What a layer answers is what its place in the published list of convolutions, rectifiers and maxima answers."""
    pictures = torch.rand((2, 3, 34, 50), generator=torch.Generator().manual_seed(1))
    values = (pictures - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    found = load_vgg16(imagenet_file)(pictures, layers=("relu1_2", "relu3_3", "relu5_3"))
    wanted = {}
    for place in range(31):
        if place in CONVOLUTIONS:
            weight, bias = imagenet[f"features.{place}.weight"], imagenet[f"features.{place}.bias"]
            values = functional.conv2d(values, weight, bias, padding=1)
        elif place in POOLS:
            values = functional.max_pool2d(values, 2)
        else:
            values = values.clamp(min=0)
        wanted[place] = values
    for layer, place in zip(found, (3, 15, 29), strict=True):
        torch.testing.assert_close(layer, wanted[place])
    assert [tuple(layer.shape) for layer in found] == [(2, 64, 34, 50), (2, 256, 8, 12), (2, 512, 2, 3)]


def test_layers_come_in_the_order_asked() -> None:
    """Layers are returned as they were asked for, one asked twice twice."""
    features = Features(width=2)
    pictures = torch.rand(1, 3, 17, 9)
    second, first, again = features(pictures, layers=("relu2_1", "relu1_1", "relu2_1"))
    assert second.shape == again.shape == (1, 4, 8, 4)
    assert first.shape == (1, 2, 17, 9)


def test_gradients_reach_the_pictures_and_not_the_weights(imagenet_file: Path) -> None:
    """A perceptual loss trains what made the picture: loaded features let gradients through and keep their weights."""
    features = load_vgg16(imagenet_file)
    pictures = torch.rand(1, 3, 16, 20, requires_grad=True)
    features(pictures, layers=("relu2_2",))[0].mean().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in features.parameters())


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        ((1, 3, 16, 16), ("relu9_9",), "layers must be some of relu1_1"),
        ((1, 3, 16, 16), (), "got none"),
        ((1, 4, 16, 16), ("relu1_1",), r"pictures must be \(B, 3, H, W\)"),
        ((3, 16, 16), ("relu1_1",), "pictures must be"),
        ((1, 3, 15, 40), ("relu5_1",), "sides 16 at least"),
    ],
)
def test_wrong_pictures_and_layers_are_refused(shape: tuple[int, ...], layers: tuple[str, ...], message: str) -> None:
    """An unknown layer, and pictures of another shape or too small, are refused by name."""
    with pytest.raises(ValueError, match=message):
        Features(width=2)(torch.zeros(shape), layers=layers)


def test_both_formats_of_torch_are_read(
    imagenet: OrderedDict[str, Tensor], imagenet_file: Path, tmp_path: Path
) -> None:
    """The zip format of torch gives the same weights as the one before it."""
    path = tmp_path / "zip.pth"
    torch.save(imagenet, path)
    new, old = load_vgg16(path).state_dict(), load_vgg16(imagenet_file).state_dict()
    assert new.keys() == old.keys()
    assert all(torch.equal(new[key], old[key]) for key in old)
    path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("features.28.bias"), "features.28.bias is missing, not"),
        (lambda w: w.update({"features.0.weight": torch.zeros(64, 4, 3, 3)}), r"features.0.weight is \(64, 4, 3, 3\)"),
        (lambda w: w.update({"features.5.bias": torch.full((128,), torch.nan)}), "some weights are not finite"),
        (lambda w: w.update({"epoch": 7}), "something other than tensors"),
        (lambda w: w.clear(), "features.0.weight is missing"),
    ],
)
def test_other_weights_are_refused(
    change: Callable[[dict[str, Tensor]], object], message: str, imagenet: OrderedDict[str, Tensor], tmp_path: Path
) -> None:
    """A file of other names, shapes or contents is refused in one line that says what is wrong."""
    weights = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in imagenet.items()}  # small on the disk
    change(weights)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"^VGG-16 weights [^\n]*{message}[^\n]*$"):
        load_vgg16(tmp_path / "other.pth")


@pytest.mark.parametrize("keep", [0, 1, 100, 5_000, 40_000_000])
def test_truncated_file_is_refused(keep: int, imagenet_file: Path, tmp_path: Path) -> None:
    """A file that was cut short is refused in one line, wherever it was cut."""
    path = tmp_path / "short.pth"
    with imagenet_file.open("rb") as file:
        path.write_bytes(file.read(keep))
    with pytest.raises(ValueError, match=r"^VGG-16 weights [^\n]*(truncated|something other)[^\n]*$"):
        load_vgg16(path)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    """A pickle with code in it is refused, and its code not run, in the old format too."""

    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (tmp_path / "ran",)

    for number, write in enumerate((lambda v, p: p.write_bytes(pickle.dumps(v)), torch.save)):
        write({"features.0.weight": Hostile()}, tmp_path / f"{number}.pth")
        with pytest.raises(ValueError, match=r"something other than tensors|truncated"):
            load_vgg16(tmp_path / f"{number}.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    """A path that is no file is refused in one line."""
    with pytest.raises(ValueError, match=r"^VGG-16 weights .*(cannot be read: No such file|is no plain file)"):
        load_vgg16(tmp_path / name)


def test_network_starts_from_imagenet_with_a_blind_mask(imagenet_file: Path) -> None:
    """The network's convolutions are ImageNet's, and the weights of the mask's channel are zero."""
    network = make_network("vgg16", weights=imagenet_file)
    assert isinstance(network, VggDiscriminator)
    assert network.shape == VggShape(side=224)
    loaded = load_vgg16(imagenet_file).state_dict()
    own = network.vgg.state_dict()
    assert torch.equal(own["features.0.weight"][:, :3], loaded["features.0.weight"])
    assert torch.equal(own["features.28.weight"], loaded["features.28.weight"])
    assert not own["features.0.weight"][:, 3].any()


def test_network_without_weights_has_a_blind_mask_too() -> None:
    """A network of random weights starts with a mask that counts for its regions alone."""
    torch.manual_seed(0)
    network = make_network("vgg16", SMALL)
    assert isinstance(network, VggDiscriminator)
    assert not network.vgg.get_parameter("features.0.weight")[:, 3].any()
    assert network.vgg.get_parameter("features.0.weight")[:, :3].all()


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_network_has_the_same_interface(architecture: str) -> None:
    """Every architecture turns uint8 crops into a logit and six numbers each."""
    shape = SMALL if architecture == "vgg16" else None
    network = make_network(architecture, shape).eval()
    side = network.shape.side
    logits, changes = network(torch.from_numpy(crops_of(0, side=side, count=3)))
    assert (logits.shape, changes.shape) == ((3,), (3, 6))
    assert logits.dtype == changes.dtype == torch.float32


@pytest.mark.parametrize("fill", [0, 255])
def test_empty_and_full_masks_give_finite_logits(fill: int) -> None:
    """A crop whose mask says the same everywhere has a finite logit: one region is empty."""
    torch.manual_seed(0)
    crops = crops_of(1, side=32, count=2)
    crops[..., 3] = fill
    logits, _ = make_network("vgg16", SMALL).eval()(torch.from_numpy(crops))
    assert torch.isfinite(logits).all()


def test_network_overfits_one_batch() -> None:
    """A small network on VGG-16's plan learns one batch by heart, so its gradients reach every layer."""
    torch.manual_seed(0)
    network = make_network("vgg16", VggShape(side=32, width=4, hidden=32, dropout=0.0))
    crops, natural = torch.from_numpy(crops_of(2, side=32, count=8)), torch.tensor([1.0, 0.0] * 4)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(network(crops)[0], natural)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert all(parameter.grad is not None for name, parameter in network.named_parameters() if "change" not in name)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    """A checkpoint of this architecture is saved, loaded and scores as any other."""
    torch.manual_seed(4)
    saved = Checkpoint(make_network("vgg16", SMALL).eval(), Calibration(2.0, 0.1), threshold=0.3)
    save_checkpoint(saved, tmp_path / "vgg")
    loaded = load_checkpoint(tmp_path / "vgg.json")
    assert isinstance(loaded.model, VggDiscriminator)
    assert loaded.model.shape == SMALL
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    mask = np.zeros((50, 70), bool)
    mask[10:30, 20:40] = True
    crops = np.concatenate([prepare(picture, mask, side=32)[None], crops_of(5, side=32, count=10)])
    together = score_crops(loaded, crops)
    assert np.array_equal(together, score_crops(saved, crops))
    assert np.array_equal(together[:3], np.concatenate([score_crops(loaded, crop[None]) for crop in crops[:3]]))


def test_batches_divide_each_other() -> None:
    """Every architecture's batch divides the compact network's, so a place in one says the place in the other."""
    assert all(BATCH % known.batch == 0 for known in ARCHITECTURES.values())


@pytest.mark.parametrize(
    ("architecture", "shape", "weights", "error", "message"),
    [
        ("resnet", None, None, ValueError, "architecture must be one of regions, vgg16, got 'resnet'"),
        ("regions", SMALL, None, TypeError, "shape must be a Shape for regions"),
        ("regions", None, Path("w.pth"), ValueError, "only vgg16 starts from a file"),
        ("vgg16", SMALL, Path("w.pth"), ValueError, "ImageNet weights fit a width of 64 only, the network's is 4"),
        ("vgg16", VggShape(side=100), None, ValueError, "side must be a multiple of 16 from 32 to 1024, got 100"),
    ],
)
def test_networks_that_cannot_be_are_refused(
    architecture: str, shape: VggShape | None, weights: Path | None, error: type[Exception], message: str
) -> None:
    """An unknown architecture, another's shape, and weights that do not belong are refused by name."""
    with pytest.raises(error, match=message):
        make_network(architecture, shape, weights=weights)


def test_layers_have_their_places() -> None:
    """Layers are named by stage and number; their places are torchvision's."""
    assert len(LAYERS) == 13
    assert (LAYERS["relu1_1"], LAYERS["relu2_2"], LAYERS["relu4_3"], LAYERS["relu5_3"]) == (1, 8, 22, 29)
