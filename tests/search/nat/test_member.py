"""Networks out of supernetworks as members: recorded, exported, and the same in ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch

from encas.errors import InvalidInput
from encas.export.source import MemberSpec, absolute, as_stored, open_network, spec_of
from encas.pool import Member
from encas.preprocess import Preprocess
from encas.runtime import open_session
from encas.search.nat import SPACES, SupernetFolder, count_macs

from .nets import images, random_supernet

TINY = [name for name in SPACES if name.startswith("tiny")]
PREPROCESS = Preprocess(size=(32, 32))


def folder_of(name: str, path: Path, resize: str = "image") -> SupernetFolder:
    """Two random architectures of random weights, with statistics of their own."""
    space, rng = SPACES[name], np.random.default_rng(0)
    supernet = random_supernet(space)
    made = SupernetFolder.create(path, supernet, PREPROCESS, "tensor" if resize == "tensor" else "image")
    for which in ("a", "b"):
        arch = space.sample(rng)
        side = 32 if resize == "tensor" else arch.resolution
        made = made.with_network(which, arch, [images(4, side)], supernet=supernet)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("which", ["a", "b"])
def test_a_network_of_a_supernetwork_is_a_member(tmp_path: Path, which: str) -> None:
    folder = folder_of("tiny-mbv3-w1.0", tmp_path / "run")
    arch = folder.calibrated(which).arch
    spec = absolute(MemberSpec(source=f"nat:run#{which}"), tmp_path)
    assert spec.member_name == which
    network = open_network(spec)
    assert network.macs == count_macs(folder.space, arch, 10)
    assert network.n_classes == 10
    assert network.preprocess == PREPROCESS.model_copy(update={"size": (arch.resolution, arch.resolution)})
    batch = images(3, arch.resolution)
    with torch.no_grad():
        expected = torch.softmax(folder.network(which)(batch), 1).numpy()
    assert network.probs(batch.numpy()) == pytest.approx(expected, abs=1e-5)


def test_a_pool_beside_the_folder_names_it_relatively_and_finds_it_again(tmp_path: Path) -> None:
    folder_of("tiny-mbv3-w1.0", tmp_path / "run")
    spec = absolute(MemberSpec(source="nat:run#a", name="first"), tmp_path)
    stored = as_stored(spec, tmp_path / "pool")
    assert stored.source == "nat:../run#a"
    member = Member(name="first", source=stored.source, macs=1)
    assert spec_of(member, tmp_path / "pool", allow_code=False).source == spec.source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nat:run", "must be timm:NAME, .* nat:FOLDER#NETWORK or ofa:NAME"),
        ("nat:#a", "must be timm:NAME"),
        ("nat:other#a", r"other: holds no supernet\.json; make it with 'encas nat init'"),
        ("nat:run#c", r"run: has no calibrated network 'c' \(has: a, b\)"),
    ],
)
def test_a_network_that_is_not_there_is_one_clear_line(tmp_path: Path, source: str, message: str) -> None:
    folder_of("tiny-alphanet", tmp_path / "run")
    with pytest.raises(InvalidInput, match=message):
        open_network(absolute(MemberSpec(source=source), tmp_path))


def test_a_network_of_a_supernetwork_takes_no_other_weights(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nat:run#a: holds its weights already"):
        absolute(MemberSpec(source="nat:run#a", weights="w.pth"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "resize"), [*((name, "image") for name in SPACES), ("tiny-mbv3-w1.0", "tensor")]
)
def test_onnx_runtime_answers_the_same_for_any_batch(name: str, resize: str, tmp_path: Path) -> None:
    folder_of(name, tmp_path / "run", resize)
    for which in ("a", "b") if name in TINY else ("a",):
        network = open_network(MemberSpec(source=f"nat:{tmp_path / 'run'}#{which}"))
        network.write_onnx(tmp_path / "net.onnx")
        session = open_session(tmp_path / "net.onnx", "cpu", output="probs")
        for n in (1, 2, 5):
            batch = images(n, network.preprocess.size[0], seed=n).numpy()
            expected = network.probs(batch)
            assert expected.std() > 0.001
            assert np.abs(session.run(batch) - expected).max() < 1e-5
