"""Files in the formats that the originals publish, with random tensors."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from encas.errors import InvalidInput
from encas.search.nat.checkpoint import read_official
from encas.search.nat.layout import round8
from encas.search.nat.spaces import SPACES

from .nets import images

ALPHANET = SPACES["alphanet"]
State = dict[str, Tensor]

pytestmark = pytest.mark.slow  # files as large as the published ones


def norm(name: str, n: int, *, tracking: bool) -> Iterator[tuple[str, Tensor]]:
    """A normalisation of AlphaNet, with the statistics that nothing uses."""
    parts = [(f"{name}.bn.bn", 1.0)] + [(f"{name}.bn.bn_tracking.{j}", 5.0) for j in (0, 1) if tracking]
    for part, scale in parts:
        if part.endswith(".bn.bn"):
            yield f"{part}.weight", 1 + 0.1 * torch.randn(n)
            yield f"{part}.bias", 0.1 * torch.randn(n)
        yield f"{part}.running_mean", scale * 0.1 * torch.randn(n)
        yield f"{part}.running_var", scale * torch.rand(n) + 0.5
        yield f"{part}.num_batches_tracked", torch.tensor(3)


def conv(name: str, n_out: int, n_in: int, kernel: int = 1) -> tuple[str, Tensor]:
    return f"{name}.conv.conv.weight", torch.randn(n_out, n_in, kernel, kernel) / (n_in * kernel**2) ** 0.5


def alphanet_tensors(n_classes: int = 10) -> Iterator[tuple[str, Tensor]]:
    """All 1468 tensors of a published file, from the table of stages."""
    torch.manual_seed(0)
    numbers = count()
    yield conv("first_conv", 24, 3, 3)
    yield from norm("first_conv", 24, tracking=True)
    n_in = 24
    for stage in ALPHANET.stages:
        n_out, expand = stage.widths[-1], stage.expands[-1]
        for _ in range(stage.depths[-1]):
            block = f"blocks.{next(numbers)}"
            inside, n_mid = f"{block}.mobile_inverted_conv", round8(n_in * expand)
            if expand != 1:
                yield conv(f"{inside}.inverted_bottleneck", n_mid, n_in)
                yield from norm(f"{inside}.inverted_bottleneck", n_mid, tracking=True)
            yield conv(f"{inside}.depth_conv", n_mid, 1, 5)
            yield from norm(f"{inside}.depth_conv", n_mid, tracking=True)
            if stage.se:
                n_squeezed = round8(n_mid // 4)
                for part, sizes in (("reduce", (n_squeezed, n_mid)), ("expand", (n_mid, n_squeezed))):
                    yield f"{inside}.depth_conv.se.fc.{part}.weight", 0.1 * torch.randn(*sizes, 1, 1)
                    yield f"{inside}.depth_conv.se.fc.{part}.bias", 0.1 * torch.randn(sizes[0])
            yield conv(f"{inside}.point_linear", n_out, n_mid)
            yield from norm(f"{inside}.point_linear", n_out, tracking=True)
            yield conv(f"{block}.shortcut", n_out, n_in)
            n_in = n_out
    yield conv("last_conv.final_expand_layer", 6 * n_in, n_in)
    yield from norm("last_conv.final_expand_layer", 6 * n_in, tracking=True)
    yield conv("last_conv.feature_mix_layer", 1984, 6 * n_in)
    yield "classifier.linear.linear.weight", 0.01 * torch.randn(n_classes, 1984)
    yield "classifier.linear.linear.bias", 0.01 * torch.randn(n_classes)


@pytest.fixture(scope="module")
def alphanet() -> State:
    return {f"module.{key}": tensor for key, tensor in alphanet_tensors()}


def is_dead(key: str) -> bool:
    """Whether no architecture uses it: only the first block of a stage can change the width."""
    starts = ("0", "2", "7", "13", "19", "27", "35")
    return "bn_tracking" in key or ("shortcut" in key and key.split(".")[2] not in starts)


def test_the_file_that_alphanet_publishes_is_read_without_its_dead_tensors(
    alphanet: State, tmp_path: Path
) -> None:
    assert len(alphanet) == 1468
    assert sum("bn_tracking" in key for key in alphanet) == 666
    dead = [key for key in alphanet if is_dead(key) and "shortcut" in key]
    assert (len(dead), sum(alphanet[key].numel() for key in dead)) == (30, 530_048)
    whole = {"epoch": 360, "state_dict": alphanet, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save(whole, tmp_path / "alphanet_pretrained.pth.tar", _use_new_zipfile_serialization=False)
    supernet = read_official(tmp_path / "alphanet_pretrained.pth.tar", ALPHANET, 10).eval()
    assert torch.equal(supernet.net.stem.conv.weight, alphanet["module.first_conv.conv.conv.weight"])

    other = {key: torch.full_like(value, 9) if is_dead(key) else value for key, value in alphanet.items()}
    torch.save({"state_dict": other}, tmp_path / "other.pth.tar")
    changed = read_official(tmp_path / "other.pth.tar", ALPHANET).eval()
    rng = np.random.default_rng(0)
    for _ in range(2):
        arch = ALPHANET.sample(rng)
        with torch.no_grad():
            expected = supernet(images(1, 64), arch)
            assert torch.isfinite(expected).all() and expected.std() > 0
            assert torch.equal(changed(images(1, 64), arch), expected)


def test_every_live_tensor_has_its_place(alphanet: State, tmp_path: Path) -> None:
    save_file(alphanet, tmp_path / "live.safetensors")
    supernet = read_official(tmp_path / "live.safetensors", SPACES["attentivenas"])
    live = sorted(t.double().sum().item() for key, t in alphanet.items() if not is_dead(key))
    found = sorted(t.double().sum().item() for t in supernet.net.state_dict().values())
    assert found == live


@pytest.fixture(scope="module")
def ofa() -> State:
    """A file of once-for-all in the older spelling, made of a supernet's own tensors."""
    from encas.search.nat.supernet import Supernet

    net = Supernet(SPACES["ofa-mbv3-w1.0"], 10, torch.Generator().manual_seed(0)).net
    ends = {"stem": "first_conv", "final": "final_expand_layer", "mix": "feature_mix_layer"}
    layers = {"expand": "inverted_bottleneck", "depth": "depth_conv", "project": "point_linear"}
    state: State = {}
    for key, tensor in net.state_dict().items():
        first, _, rest = key.partition(".")
        if first == "classifier":
            state[f"classifier.linear.{rest}"] = tensor
        elif first != "stages":
            state[f"{ends[first]}.{rest}"] = tensor
        else:
            stage, j, layer, rest = rest.split(".", 3)
            number = 0 if stage == "0" else 1 + 4 * (int(stage) - 1) + int(j)
            where = f"blocks.{number}.mobile_inverted_conv"
            if layer == "se":
                state[f"{where}.depth_conv.se.fc.{rest}"] = tensor
            elif "matrices" in rest:
                state[f"{where}.depth_conv.conv.{rest.rpartition('.')[2]}_matrix"] = tensor
            else:
                part, _, end = rest.partition(".")
                name = f"{part}.{part}" if number else part  # elastic layers wrap plain ones
                state[f"{where}.{layers[layer]}.{name}.{end}"] = tensor
    return state


def test_both_spellings_of_once_for_all_give_the_same(ofa: State, tmp_path: Path) -> None:
    newer = {key.replace("mobile_inverted_conv", "conv"): tensor for key, tensor in ofa.items()}
    assert len(ofa) == len(newer) == 475 and ofa.keys() != newer.keys()
    torch.save({"state_dict": ofa}, tmp_path / "old")
    torch.save({"model_state_dict": newer}, tmp_path / "new")
    one, other = (read_official(tmp_path / name, SPACES["ofa-mbv3-w1.0"]) for name in ("old", "new"))
    assert one.n_classes == 10
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key])


def refusal(state: object, path: Path, space: str = "ofa-mbv3-w1.0", n_classes: int | None = None) -> str:
    torch.save(state, path)
    with pytest.raises(InvalidInput) as caught:
        read_official(path, SPACES[space], n_classes)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "ofa-mbv3-w1.2",
            r"is no checkpoint of ofa-mbv3-w1.2: 'stem.conv.weight' has shape \(16, 3, 3, 3\), must",
        ),
        ("ofa-proxyless-w1.3", "is no checkpoint of ofa-proxyless-w1.3: lacks 'mix.bn.bias' and"),
        ("alphanet", "is no checkpoint of alphanet: lacks"),
        ("tiny-mbv3-w1.0", "is no checkpoint of tiny-mbv3-w1.0: has 10 blocks or more"),
    ],
)
def test_a_file_of_another_space_is_refused(ofa: State, tmp_path: Path, space: str, message: str) -> None:
    import re

    assert re.match(message, refusal(ofa, tmp_path / "w", space))


def test_missing_and_left_over_tensors_are_named(ofa: State, tmp_path: Path) -> None:
    path = tmp_path / "w"
    some = {key: tensor for key, tensor in ofa.items() if key != "first_conv.bn.bias"}
    wrong = "is no checkpoint of ofa-mbv3-w1.0: "
    assert refusal(some, path) == f"{wrong}lacks 'stem.bn.bias'"
    for extra in ("blocks.1.shortcut.conv.conv.weight", "first_conv.bn.bn_tracking.0.running_mean", "x"):
        assert refusal(ofa | {extra: torch.zeros(1)}, path).startswith(f"{wrong}has '")
    twice = ofa | {"blocks.1.conv.point_linear.bn.bias": torch.zeros(24)}
    assert refusal(twice, path).startswith("has '")
    assert refusal(twice, path).endswith(" twice, under two spellings")


def test_a_wrong_class_count_is_one_clear_line(ofa: State, tmp_path: Path) -> None:
    message = refusal(ofa, tmp_path / "w", n_classes=100)
    assert message == "tells 10 classes apart, not 100; read it as it is and draw a new head"


def test_a_file_without_a_classifier_is_refused(tmp_path: Path) -> None:
    message = refusal({"fc.weight": torch.zeros(3)}, tmp_path / "w")
    assert message == "is no checkpoint of ofa-mbv3-w1.0: has no classifier"
