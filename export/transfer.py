"""From a supernetwork and a data set to a pool: a run of transfer, whose best networks become members."""

import csv
import io
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from encas.cluster import Cluster
from encas.data import LabelledImages, open_images
from encas.errors import InvalidInput
from encas.export.recorder import record
from encas.export.source import MemberSpec
from encas.export.torch_network import check_device
from encas.files import FileModel, locked, read_model, remove_leftovers, replaced, write_bytes, write_model
from encas.pool import Pool
from encas.preprocess import Preprocess
from encas.runtime import decode
from encas.runtime.machine import usable_cores
from encas.search.nat import Supernet, SupernetFolder
from encas.search.nat.config import Images, NatConfig
from encas.search.nat.encoding import as_text
from encas.search.nat.evaluate import Judge, Prepared
from encas.search.nat.folder import FILE
from encas.search.nat.images import Batches, CroppedAndFlipped, Pixels, RandomlyTransformed, Scale, Share
from encas.search.nat.iteration import Evaluation, Report, best
from encas.search.nat.population import Population, numbers
from encas.search.nat.processes import gathered
from encas.search.nat.team import Team
from encas.search.nat.transfer import Phase, Transfer

_BATCH = 250


def transfer(
    config: NatConfig,
    run: Path | str,
    pool: Path | str,
    *,
    data: Path | str = ".",
    device: str = "cpu",
    phase: Phase = lambda _name, _steps: lambda _done, _words: None,
    processes: int = 1,
    workers: int = 0,
    cluster: Cluster | None = None,
) -> tuple[Pool, tuple[Report, ...]]:
    """Train and search a supernetwork, or several as one population, and record the best networks.

    What is done already is not done again.

    Args:
        config: What to do.
        run: Folder for weights, evaluations and reports; goes on where it was.
        pool: Folder; the networks are added to it.
        data: What the paths of the configuration are relative to.
        device: "cpu" or "cuda".
        phase: Told what begins, and of how many steps it has; returns what is told of each.
        processes: How many train together, each on its share of every batch; all else is done by this one.
        workers: Processes beside each of these that prepare strongly augmented images.
        cluster: Runs the other processes that train, evaluates candidates and records the networks; its
            machines find run and images by the same paths.

    Raises:
        InvalidInput: There are no such images or weights, an image is damaged, a class has too few, the run
            is of another configuration, or the pool of other images.
        Diverged: Training lost its way.
        LostProcess: One of several processes died.
    """
    check_device(device)
    run = Path(run)
    splits = Splits.open(config, Path(data))
    weights = [Path(data) / name for name in config.all_weights if name is not None]
    most = max(batch_sizes(config), default=0)
    if most > len(splits.train):
        raise InvalidInput(f"data.train: has {len(splits.train)} images, a batch of {most} is wanted")
    for file in weights:
        if not file.is_file():
            raise InvalidInput(f"{file}: no such file of weights; 'encas nat weights' says where they are")
    check_pool(Path(pool), splits)
    if not (run / "iterations").exists():
        splits.check_images(phase)
    _check_shares(config, processes)
    others = partial(assist, config, data=Path(data).absolute(), device=device, workers=workers)
    with locked(run), gathered(processes, others, device, cluster) as team:
        _check_shares(config, team.size)  # torchrun says how many
        _check_config(config, run)
        check_same_images(splits, run)
        remove_leftovers(run)
        batches = partial(splits.batches, share=Share(team.rank, team.size), workers=workers)
        search = Transfer(config, run, splits.judge(), batches, weights, device, phase, team, cluster)
        reports = search.run()
        chosen = best(search.found(), config.final.networks)
        places = _places(run, config.population)
        keep(search.averaged(), chosen, places, splits, phase)
    members = []
    for one in chosen:
        which, own = config.population.apart(numbers(one.genes))
        source = f"nat:{places[which]}#{as_text(own)}"
        members.append(MemberSpec(source=source, name=f"{run.resolve().name}_{one.genes}"))
    for name, images in splits.recorded.items():
        place = written(images, run / "data" / name)
        advance = phase(f"recording {name}", len(members) * len(images))
        record(pool, members, place, split=name, classes=splits.classes, advance=advance, cluster=cluster)
    return Pool.open(pool), reports


def assist(
    config: NatConfig, team: Team, *, data: Path | str = ".", device: str = "cpu", workers: int = 0
) -> None:
    """Help the first process of a team with its trainings; see `transfer`."""
    splits = Splits.open(config, Path(data))
    batches = partial(splits.batches, share=Share(team.rank, team.size), workers=workers)
    Transfer(config, Path(), splits.judge(), batches, device=device, team=team).help()


@dataclass(frozen=True)
class Splits:
    """The images of a configuration."""

    config: NatConfig
    train: LabelledImages
    recorded: dict[str, LabelledImages]  # val, and test if there is one

    @classmethod
    def open(cls, config: NatConfig, folder: Path) -> "Splits":
        """Open the images, and check classes and their numbers."""
        data = config.data
        train = _opened(data.train, folder)
        named = {"val": data.val} if data.test is None else {"val": data.val, "test": data.test}
        recorded = {name: _opened(images, folder).in_classes(train.classes) for name, images in named.items()}
        for name, images in {"train": train, **recorded}.items():
            _check_classes(name, images, data.classes)
        counts = np.bincount(train.labels, minlength=data.classes)
        if counts.min() < 2:
            label = int(counts.argmin())
            which = train.classes[label] if train.classes else str(label)
            n_found = "no image" if counts[label] == 0 else "1 image"
            raise InvalidInput(f"{data.train.path}: class '{which}' has {n_found}; training needs at least 2")
        for name, wanted in named.items():
            if (folder / wanted.path).is_dir() and wanted.rows == ":" and wanted.per_class is None:
                _check_no_class_is_empty(name, recorded[name])
        return cls(config, train, recorded)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, where the training images have them."""
        return self.train.classes

    @property
    def preprocess(self) -> Preprocess:
        """How images are prepared; each network at its own resolution."""
        data = self.config.data
        side = data.size or max(self.config.population.spaces[0].searched)
        return Preprocess(
            size=(side, side),
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
            mean=data.mean,
            std=data.std,
        )

    def check_images(self, phase: Phase) -> None:
        """Decode the images that everything is compared and recorded on, before the work.

        Raises:
            InvalidInput: Names the first that is damaged.
        """
        n_calibration = max(self.config.loop.calibration_images, self.config.final.calibration_images)
        calibration = self.train.take(np.arange(min(n_calibration, len(self.train))))
        used = [*self.recorded.values(), calibration]
        files = [image for images in used for image in images.images if isinstance(image, Path)]
        if not files:
            return
        advance = phase("checking images", len(files))
        with ThreadPoolExecutor(usable_cores()) as threads:
            for start in range(0, len(files), _BATCH):
                part = files[start : start + _BATCH]
                for _ in threads.map(lambda file: decode(file).close(), part):
                    advance(1, "")

    def judge(self) -> Judge:
        """Evaluate on the first images of val, calibrate on the first ones of train."""
        val = self.recorded["val"]
        n_val = self.config.loop.val_images or len(val)
        return Judge(
            Prepared(val.take(np.arange(min(n_val, len(val)))), self.preprocess, self.config.data.resize),
            self.calibration(self.config.loop.calibration_images),
        )

    def calibration(self, n: int) -> Prepared:
        """The first n training images."""
        first = self.train.take(np.arange(min(n, len(self.train))))
        return Prepared(first, self.preprocess, self.config.data.resize)

    def batches(self, size: int, seed: int, *, share: Share, workers: int) -> Batches:
        """Draw training images, one process its share."""
        data = self.config.data
        scale = Scale(data.mean, data.std)
        if data.augment == "strong":
            return RandomlyTransformed(self.train, scale, size, seed, share=share, workers=workers)
        pixels = Prepared(self.train, self.preprocess).pixels(self.preprocess.size[0])
        return CroppedAndFlipped(Pixels(pixels, self.train.labels), scale, size, seed, share=share)


def _opened(images: Images, folder: Path) -> LabelledImages:
    opened = open_images(folder / images.path)
    if images.shuffled_by is not None:
        opened = opened.take(np.random.default_rng(images.shuffled_by).permutation(len(opened)))
    if images.per_class is not None:
        first = [np.flatnonzero(opened.labels == c)[: images.per_class] for c in np.unique(opened.labels)]
        opened = opened.take(np.sort(np.concatenate(first)))
    return opened.rows(images.rows)


def _check_shares(config: NatConfig, processes: int) -> None:
    """Check now what would stop the run later."""
    for batch in batch_sizes(config):
        Share(0, processes).rows(batch)


def batch_sizes(config: NatConfig) -> list[int]:
    """Of all trainings."""
    start = [config.start.batch] if config.start else []
    return [*start, *([config.loop.batch] if config.loop.epochs > 0 else [])]


def _check_no_class_is_empty(name: str, images: LabelledImages) -> None:
    """Folders of classes that hold nothing are somebody's slip; lists, arrays and slices may lack classes."""
    if images.classes is None or isinstance(images.images, np.ndarray):
        return
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if counts.min() == 0:
        which = images.classes[int(counts.argmin())]
        raise InvalidInput(f"data.{name}: class '{which}' has no image; each class of train needs one")


def _check_classes(name: str, images: LabelledImages, n_classes: int) -> None:
    found = len(images.classes) if images.classes else int(images.labels.max()) + 1
    if found != n_classes and (images.classes or found > n_classes):
        raise InvalidInput(f"data.{name}: has {found} classes, the configuration says {n_classes}")


def _check_config(config: NatConfig, run: Path) -> None:
    """Keep the configuration with the run, and refuse to go on with another; see `_but_iterations`."""
    file = run / "config.json"
    before = read_model(file, NatConfig) if file.exists() else config
    unfinished = not (run / "supernet").exists()
    if before != config and not (unfinished and _but_iterations(before) == _but_iterations(config)):
        raise InvalidInput(
            f"{run}: is a run of another configuration ({file}); name another folder with --run"
        )
    write_model(file, config)


def _but_iterations(config: NatConfig) -> NatConfig:
    """Leave out what may be changed until the weights of the last iterations have been averaged."""
    if config.loop.cosine == "once":  # each training depends on how many there are
        return config
    return config.model_copy(update={"loop": config.loop.model_copy(update={"iterations": 1})})


class SeenImages(FileModel):
    """`images.json`: what a run was made on, see `LabelledImages.fingerprint`."""

    sha256: Mapping[str, str]  # by split


def check_same_images(splits: Splits, run: Path) -> None:
    """Keep the images' digests with the run, and refuse to go on with others."""
    file = run / "images.json"
    named = {"train": splits.train, **splits.recorded}
    seen = SeenImages(sha256={name: images.fingerprint() for name, images in named.items()})
    if file.exists():
        before = read_model(file, SeenImages).sha256
        other = next((name for name in seen.sha256 if before.get(name) != seen.sha256[name]), None)
        if other is not None:
            raise InvalidInput(f"{run}: was made on other images for {other}; name another folder with --run")
    write_model(file, seen)


def check_pool(pool: Path, splits: Splits) -> None:
    """Refuse at once a pool that the networks could not be added to in the end."""
    if not (pool / "pool.json").exists():
        return
    known, n_classes = Pool.open(pool), splits.config.data.classes
    if known.n_classes != n_classes:
        raise InvalidInput(f"{pool}: has {known.n_classes} classes, the configuration says {n_classes}")
    for name, images in splits.recorded.items():
        if name not in known.file.splits:
            continue
        if not np.array_equal(known.labels(name), images.labels):
            raise InvalidInput(
                f"{pool}: split '{name}' has other labels ({known.split(name).n} samples, here "
                f"{len(images)}); name another pool with --pool"
            )
        data = known.split(name).data
        if data is not None and data.sha256 not in (None, images.fingerprint()):
            raise InvalidInput(f"{pool}: split '{name}' has other images; name another pool with --pool")


def _places(run: Path, population: Population) -> list[Path]:
    """Where each supernetwork is kept."""
    place = run / "supernet"
    if len(population.spaces) == 1:
        return [place]
    return [place / space.name for space in population.spaces]


def keep(
    supernets: list[Supernet], chosen: list[Evaluation], places: list[Path], splits: Splits, phase: Phase
) -> None:
    """Write the supernetworks, and calibrate the networks that were chosen."""
    folders = []
    for supernet, place in zip(supernets, places, strict=True):
        if (place / FILE).exists():
            folders.append(SupernetFolder.open(place))
        else:
            shutil.rmtree(place, ignore_errors=True)  # a run may have been killed just then
            resize = splits.config.data.resize
            folders.append(SupernetFolder.create(place, supernet, splits.preprocess, resize))
    calibration = splits.calibration(splits.config.final.calibration_images)
    advance: Callable[[int, str], None] = phase("calibrating", len(chosen))
    for one in chosen:
        which, own = splits.config.population.apart(numbers(one.genes))
        name = as_text(own)
        if name not in folders[which].file.networks:
            _, arch = splits.config.population.arch(numbers(one.genes))
            tensors = calibration.tensors(arch.resolution)
            folders[which] = folders[which].with_network(name, arch, tensors, supernet=supernets[which])
        advance(1, f"{one.macs / 1e6:.4g} MMACs")


def written(images: LabelledImages, place: Path) -> Path:
    """Write a split where the pool can find it again: pixels as `.npz`, names of files as `.csv`."""
    if isinstance(images.images, np.ndarray):
        file = place.with_suffix(".npz")
        arrays: dict[str, Any] = {"images": images.images, "labels": images.labels}
        if images.classes is not None:
            arrays["classes"] = np.array(images.classes)
        if not file.exists():
            with replaced(file) as temporary, temporary.open("wb") as out:
                np.savez(out, **arrays)
        return file
    file = place.with_suffix(".csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class_index"])
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        writer.writerow([image.resolve(), label])
    write_bytes(file, text.getvalue().encode())
    return file


def pretrain(
    config: NatConfig,
    folder: Path | str,
    *,
    data: Path | str = ".",
    device: str = "cpu",
    phase: Phase = lambda _name, _steps: lambda _done, _words: None,
    workers: int = 0,
) -> Path:
    """Train a supernetwork from scratch and stop there; what is done already is not done again.

    Returns:
        The checkpoint. A run whose folder has a copy of it, under the same name, goes on from it.

    Raises:
        InvalidInput: The configuration names published weights, or there are no such images.
    """
    if config.start is None or config.others:
        raise InvalidInput("start: only one supernetwork without published weights is trained from scratch")
    folder = Path(folder)
    splits = Splits.open(config, Path(data))
    batches = partial(splits.batches, share=Share(0, 1), workers=workers)
    with locked(folder):
        Transfer(config, folder, splits.judge(), batches, device=device, phase=phase).started()
    return folder / "start.safetensors"
