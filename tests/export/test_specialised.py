"""Networks of once-for-all from files as it publishes them, made here by its own package."""

import json
from pathlib import Path

import pytest
import torch

from encas.errors import InvalidInput
from encas.export.source import MemberSpec, absolute, open_network
from encas.export.torch_network import TorchNetwork

networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks")
NAME = "note10_lat@22ms_top1@76.6_finetune@25"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of one downloaded network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "ofa" / NAME.replace("@", "-")
    folder.mkdir(parents=True)
    lists = {"ks_list": [3, 5], "expand_ratio_list": [3, 4], "depth_list": [2, 3]}
    elastic = networks.OFAMobileNetV3(n_classes=10, dropout_rate=0, **lists)
    elastic.set_active_subnet(ks=3, e=3, d=2)
    net = elastic.get_active_subnet()
    (folder / "net.config").write_text(json.dumps(net.config))
    (folder / "run.config").write_text(json.dumps({"image_size": 64}))
    torch.save({"state_dict": net.state_dict()}, folder / "init")
    return folder


@pytest.mark.slow
def test_a_specialised_network_is_a_member(folder: Path) -> None:
    spec = absolute(MemberSpec(source=f"ofa:{NAME}"), Path())
    assert spec.member_name == NAME
    network = open_network(spec)
    assert isinstance(network, TorchNetwork)
    assert (network.n_classes, network.preprocess.size) == (10, (64, 64))
    assert (network.preprocess.crop_pct, network.preprocess.interpolation) == (0.875, "bilinear")
    weights = torch.load(folder / "init", weights_only=True)["state_dict"]
    held = {
        key: t for key, t in network.module.state_dict().items() if key.endswith("classifier.linear.bias")
    }
    assert [t.tolist() for t in held.values()] == [weights["classifier.linear.bias"].tolist()]


def test_its_weights_may_come_from_another_file(folder: Path, tmp_path: Path) -> None:
    state = torch.load(folder / "init", weights_only=True)["state_dict"]
    torch.save({**state, "classifier.linear.bias": torch.full((10,), 7.0)}, tmp_path / "tuned.pth")
    network = open_network(MemberSpec(source=f"ofa:{NAME}", weights=str(tmp_path / "tuned.pth")))
    assert isinstance(network, TorchNetwork)
    assert network.module.state_dict()["classifier.classifier.linear.bias"].tolist() == [7.0] * 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x", "ofa:../x: must be a name, as in"),
        ("-x", "ofa:-x: must be a name"),
    ],
)
def test_a_name_cannot_lead_elsewhere(name: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_network(MemberSpec(source=f"ofa:{name}"))
    assert str(caught.value).startswith(message)


def test_without_a_connection_one_line_says_what_to_put_where(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "init").unlink()
    # A proxy that nobody runs is as good as no connection.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InvalidInput) as caught:
        open_network(MemberSpec(source=f"ofa:{NAME}"))
    message = str(caught.value)
    assert message.startswith(
        f"ofa:{NAME}: cannot be had from https://raw.githubusercontent.com/han-cai/files/"
    )
    assert message.endswith(f"put net.config, run.config, init from there into {folder}")
    assert "\n" not in message
    assert not (folder / "init").exists()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["[1", "{}", '{"name": "ResNeXt"}', '{"name": "MobileNetV3"}'])
def test_a_description_of_something_else_is_refused(folder: Path, text: str) -> None:
    (folder / "net.config").write_text(text)
    with pytest.raises(InvalidInput, match=f"^{folder}: is no network of once-for-all: "):
        open_network(MemberSpec(source=f"ofa:{NAME}"))
