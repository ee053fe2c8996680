"""What an experiment needs that is not there: files, where they come from, and their licences."""

from collections.abc import Iterator
from pathlib import Path

from encas.errors import InvalidInput
from encas.search.experiment.config import Experiment, joint_of, nat_of
from encas.search.nat.config import Data, Images
from encas.search.nat.weights import PUBLISHED

_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html (binary version; no licence stated)"
_KNOWN = {
    "cifar-10": _CIFAR,
    "cifar-100": _CIFAR,
    "imagenetv2": "https://github.com/modestyachts/ImageNetV2 (code MIT; images for research)",
    "imagenet": "https://image-net.org (for non-commercial research, after registration)",
}


def check_needed(experiment: Experiment, folder: Path, data: Path) -> None:
    """See to it that all files are there before any work starts.

    Args:
        experiment: What is to be done.
        folder: Where its file lies.
        data: What paths of images and weights are relative to.

    Raises:
        InvalidInput: One line that names every missing file, where it is from, and under which licence.
    """
    wanted = {path: origin for path, origin in _wanted(experiment, folder) if not _exists(data / path)}
    missing = [
        f"{data / path} from {origin}"
        for path, origin in wanted.items()
        if not any(str(parent) in wanted for parent in Path(path).parents)  # comes with that
    ]
    if missing:
        raise InvalidInput(f"{experiment.title}: needs {'; '.join(missing)}; --data says where they are")


def _exists(path: Path) -> bool:
    """Whether it is there, perhaps inside a packed file."""
    return path.exists() or any(parent.is_file() for parent in path.parents)


def _wanted(experiment: Experiment, folder: Path) -> Iterator[tuple[str, str]]:
    for made in experiment.nat.values():
        nat = nat_of(made, experiment, folder, experiment.seed)
        yield from _of_data(nat.data)
        spaces = [nat.space, *(other.space for other in nat.others)]
        for space, weights in zip(spaces, nat.all_weights, strict=True):
            if weights is not None:
                yield weights, _of_weights(space)
    for made in experiment.joint.values():
        joint = joint_of(made, experiment, folder, experiment.seed)
        yield from _of_data(joint.data)
        for one in joint.supernets:
            if one.weights is not None:
                yield one.weights, _of_weights(one.space)
    for pool in experiment.pools.values():
        if pool.pool is not None:
            yield (
                f"{pool.pool}/pool.json",
                "a pool that benchmarks/search/imagenet.py makes (see docs/imagenet.md)",
            )
        for images in (pool.val, pool.test):
            if images is not None:
                yield images.path, _of_images(images)


def _of_data(data: Data) -> Iterator[tuple[str, str]]:
    for images in (data.train, data.val, data.test):
        if images is not None:
            yield images.path, _of_images(images)


def _of_images(images: Images) -> str:
    found = [origin for name, origin in _KNOWN.items() if images.path.startswith(name)]
    if images.path.startswith("digit-pairs"):
        return "benchmarks/experiments.py prepare (digits of scikit-learn, BSD)"
    return found[0] if found else "wherever you keep it"


def _of_weights(space: str) -> str:
    known = [one for one in PUBLISHED if one.space == space]
    return f"{known[0].url} ({known[0].licence})" if known else "wherever you keep it"
