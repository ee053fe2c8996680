import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from encas.errors import InvalidInput
from encas.files import write_bytes
from encas.preprocess import Preprocess
from encas.search.nat.calibrate import calibrated
from encas.search.nat.folder import SupernetFolder, usual_preprocess
from encas.search.nat.spaces import SPACES
from encas.search.nat.supernet import Supernet

from .nets import images, random_supernet

SPACE = SPACES["tiny-proxyless"]
PREPROCESS = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return random_supernet(SPACE)


@pytest.fixture
def folder(supernet: Supernet, tmp_path: Path) -> SupernetFolder:
    """One network, calibrated on two batches."""
    made = SupernetFolder.create(tmp_path / "run", supernet, PREPROCESS)
    return made.with_network("small", SPACE.smallest, [images(4, 16, 1), images(4, 16, 2)])


@pytest.mark.slow
def test_a_network_comes_back_with_its_own_statistics(supernet: Supernet, folder: SupernetFolder) -> None:
    again = SupernetFolder.open(folder.path)
    assert again == folder
    expected = calibrated(supernet, SPACE.smallest, [images(4, 16, 1), images(4, 16, 2)])
    with torch.no_grad():
        assert torch.equal(again.network("small")(images(2, 16)), expected(images(2, 16)))
    known = again.calibrated("small")
    assert (known.arch, known.n_images, known.estimator) == (SPACE.smallest, 8, "mean")


@pytest.mark.slow
def test_other_networks_are_added_beside_it_and_replaced_by_name(folder: SupernetFolder) -> None:
    more = folder.with_network("large", SPACE.largest, [images(4, 32)], estimator="pooled")
    assert list(more.file.networks) == ["large", "small"]
    less = more.with_network("small", SPACE.largest, [images(4, 32)])
    assert less.calibrated("small").arch == SPACE.largest
    assert less.network("small")(images(1, 32)).shape == (1, 10)


def test_the_weights_are_the_same_bytes_each_time(supernet: Supernet, tmp_path: Path) -> None:
    one, other = (SupernetFolder.create(tmp_path / name, supernet, PREPROCESS) for name in "ab")
    assert one.file == other.file
    assert (one.path / "supernet.json").read_bytes() == (other.path / "supernet.json").read_bytes()


def test_a_folder_keeps_its_epsilon(tmp_path: Path) -> None:
    space = replace(SPACE, bn_eps=0.01)
    made = SupernetFolder.create(tmp_path / "run", random_supernet(space), PREPROCESS)
    net = SupernetFolder.open(made.path).supernet().net
    assert net.stem.bn is not None and net.stem.bn.eps == 0.01


def test_images_are_prepared_at_the_resolution_of_the_network(folder: SupernetFolder) -> None:
    assert folder.preprocess(SPACE.smallest) == PREPROCESS.model_copy(update={"size": (16, 16)})


def test_or_the_network_resizes_them_itself(supernet: Supernet, tmp_path: Path) -> None:
    made = SupernetFolder.create(tmp_path / "run", supernet, PREPROCESS, "tensor")
    made = made.with_network("small", SPACE.smallest, [images(4, 32)])
    assert made.preprocess(SPACE.smallest) == PREPROCESS
    at_16 = F.interpolate(images(4, 32), (16, 16), mode="bicubic", align_corners=False)
    expected = calibrated(supernet, SPACE.smallest, [at_16])
    with torch.no_grad():
        assert torch.equal(made.network("small")(images(4, 32)), expected(at_16))


def test_published_networks_are_prepared_as_they_were_evaluated() -> None:
    preprocess, resize = usual_preprocess(SPACES["alphanet"])
    assert (preprocess.size, preprocess.crop_pct, preprocess.interpolation) == ((224, 224), 0.875, "bicubic")
    assert resize == "tensor"
    preprocess, resize = usual_preprocess(SPACES["ofa-mbv3-w1.0"])
    assert (preprocess.crop_pct, preprocess.interpolation, resize) == (0.875, "bilinear", "image")


def test_a_network_that_is_not_calibrated_is_refused(folder: SupernetFolder) -> None:
    with pytest.raises(InvalidInput, match=r"has no calibrated network 'large' \(has: small\); make it with"):
        folder.network("large")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["weights.safetensors", "statistics/small.safetensors"])
def test_a_file_that_has_changed_or_gone_is_named(folder: SupernetFolder, file: str) -> None:
    path = folder.path / file
    write_bytes(path, path.read_bytes()[:-4] + b"oops")
    with pytest.raises(InvalidInput, match=f"^{path}: has changed since it was written$"):
        folder.network("small")
    path.unlink()
    with pytest.raises(InvalidInput, match=f"^{path}: no such file$"):
        folder.network("small")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("space", "resnet", "space 'resnet': there is none"),
        ("n_classes", 1, "n_classes: Input should be greater than or equal to 2"),
        ("format", "encas-supernet/2", "format: Input should be 'encas-supernet/1'"),
        ("other", 1, "other: Extra inputs are not permitted"),
    ],
)
def test_a_description_that_is_not_right_says_where(
    folder: SupernetFolder, field: str, value: object, message: str
) -> None:
    text = json.loads((folder.path / "supernet.json").read_text())
    (folder.path / "supernet.json").write_text(json.dumps(text | {field: value}))
    with pytest.raises(InvalidInput, match=message):
        SupernetFolder.open(folder.path)


def test_a_statistics_file_elsewhere_is_refused(folder: SupernetFolder) -> None:
    path = folder.path / "supernet.json"
    path.write_text(path.read_text().replace("statistics/small", "../../small"))
    with pytest.raises(InvalidInput, match=r"statistics of 'small' must be statistics/small\.safetensors"):
        SupernetFolder.open(folder.path)


def test_statistics_of_another_architecture_are_refused(folder: SupernetFolder) -> None:
    other = folder.with_network("large", SPACE.largest, [images(4, 32)])
    path = other.path / "supernet.json"
    text = json.loads(path.read_text())
    text["networks"]["large"]["arch"] = text["networks"]["small"]["arch"]
    path.write_text(json.dumps(text))
    with pytest.raises(InvalidInput, match=r"large\.safetensors: are statistics of another architecture"):
        SupernetFolder.open(folder.path).network("large")


def test_names_folders_and_colours_are_checked(supernet: Supernet, folder: SupernetFolder) -> None:
    with pytest.raises(InvalidInput, match=r"network '\.\./x': a name has letters"):
        folder.with_network("../x", SPACE.smallest, [images(4, 16)])
    with pytest.raises(InvalidInput, match="exists already; name a new folder"):
        SupernetFolder.create(folder.path, supernet, PREPROCESS)
    with pytest.raises(InvalidInput, match=r"holds no supernet\.json; make it with 'encas nat init'"):
        SupernetFolder.open(folder.path.parent)
    gray = Preprocess(channels=1, size=(8, 8), mean=(0.0,), std=(1.0,))
    with pytest.raises(InvalidInput, match="preprocess must have 3 channels"):
        SupernetFolder.create(folder.path.parent / "gray", supernet, gray)
