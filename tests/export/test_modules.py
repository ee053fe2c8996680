from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from encas.errors import InvalidInput
from encas.preprocess import Preprocess
from encas.runtime import prepare

torch = pytest.importorskip("torch")
from encas.export.modules import _from_preset, from_function, from_timm, from_torchvision  # noqa: E402

NETWORKS = """
import torch
from torch import nn


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def prepared():
    return plain(), {"size": 2, "mean": [0, 0, 0], "std": [1, 1, 1]}


def wrong():
    return "a network"


def broken():
    raise RuntimeError("no such luck")


def badly_prepared():
    return plain(), {"size": 2, "colour": "red"}
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the current folder; each test has its own, since Python keeps what it imported."""
    name = f"networks_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_function_of_the_current_folder_gives_a_module(networks: str) -> None:
    module, preprocess = from_function(f"{networks}:plain", None)
    assert isinstance(module, torch.nn.Module)
    assert preprocess is None


def test_a_function_may_say_how_to_prepare_images(networks: str) -> None:
    _, preprocess = from_function(f"{networks}:prepared", None)
    assert preprocess == Preprocess(size=(2, 2), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_weights_of_a_file_go_into_the_module(networks: str, tmp_path: Path) -> None:
    torch.save({"1.weight": torch.ones(3, 12), "1.bias": torch.zeros(3)}, tmp_path / "w.pth")
    module, _ = from_function(f"{networks}:plain", tmp_path / "w.pth")
    assert module(torch.ones(1, 3, 2, 2)).tolist() == [[12, 12, 12]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("missing", "has no function 'missing'"),
        ("wrong", "must return an nn.Module, or an nn.Module and its preprocessing; returned str"),
        ("broken", "raised RuntimeError: no such luck"),
        ("badly_prepared", "badly_prepared: colour: .*not permitted"),
    ],
)
def test_a_function_that_is_not_right_says_how(networks: str, function: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        from_function(f"{networks}:{function}", None)


def test_a_module_that_is_not_there_is_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidInput, match=f"no module 'no_such_module', neither in {tmp_path} nor installed"
    ):
        from_function("no_such_module:f", None)


@pytest.mark.slow
def test_weights_of_a_file_tell_timm_the_number_of_classes(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    tuned = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=7)
    torch.save(tuned.state_dict(), tmp_path / "w.pth")
    module, preprocess = from_timm("mobilenetv3_small_050", tmp_path / "w.pth")
    assert module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert preprocess is not None
    assert (preprocess.size, preprocess.interpolation, preprocess.crop_pct) == ((224, 224), "bicubic", 0.875)


@pytest.mark.slow
def test_weights_of_a_file_tell_torchvision_the_number_of_classes(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    tuned = models.get_model("squeezenet1_1", weights=None, num_classes=5)
    torch.save(tuned.state_dict(), tmp_path / "w.pth")
    module, _ = from_torchvision("squeezenet1_1", tmp_path / "w.pth")
    assert module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.slow
def test_torchvision_s_transform_is_ours_bit_by_bit() -> None:
    models = pytest.importorskip("torchvision.models")
    image = pillow.fromarray(np.random.default_rng(0).integers(0, 256, (301, 397, 3), np.uint8))
    compared = set()
    for name in (
        "resnet50",
        "efficientnet_b0",
        "efficientnet_b7",
        "vit_b_16",
        "inception_v3",
        "regnet_y_32gf",
    ):
        for weights in models.get_model_weights(name):
            preset = weights.transforms()
            ours = _from_preset(preset)
            assert np.array_equal(prepare(image, ours), preset(image).numpy()), f"{name} {weights.name}"
            compared.add((preset.crop_size[0], preset.resize_size[0]))
    assert len(compared) >= 5


def test_networks_that_timm_and_torchvision_lack_are_named() -> None:
    pytest.importorskip("timm")
    with pytest.raises(InvalidInput, match="timm has no such network"):
        from_timm("resnet51000", None)
    pytest.importorskip("torchvision")
    with pytest.raises(InvalidInput, match="torchvision has no such network"):
        from_torchvision("resnet51000", None)
    with pytest.raises(InvalidInput, match="or no such weights of it"):
        from_torchvision("resnet50:IMAGENET22K", None)
