"""`cascade.onnx`: a bundle as one ONNX graph that runs in a bare ONNX Runtime, early exits inside."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper
from PIL import Image as pillow

from encas import __version__
from encas.bundle import Bundle
from encas.cascade import Answers
from encas.errors import InvalidInput
from encas.export import graph
from encas.export.parity import TOLERANCE, NotTheSame
from encas.export.single_graph import Plan, StageNetwork, cascade_graph
from encas.files import sha256_of, temporary_folder, write_model
from encas.preprocess import Preprocess
from encas.runtime import CascadeExecutor, create_session, decode, prepare_batch

NAME = "cascade.onnx"
_IR_VERSION = 10
_SMALL_BYTES = 1024  # tensors below stay in the file itself

ImageSize = tuple[int, int]  # height, width
Tensors = dict[str, NDArray[np.float32]] | dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class SingleFile:
    """A single file that was written."""

    path: Path
    data: Path | None  # weights beside it, if they are too many for one file
    inputs: dict[str, Preprocess]  # what each tensor takes; of one name for pixels, none
    image_size: ImageSize | None


def write_single_file(
    bundle: Bundle,
    path: Path,
    *,
    image_size: ImageSize | None = None,
    most_bytes: int = graph.MOST_BYTES,
) -> SingleFile:
    """Write a bundle as one graph that was seen to answer the bundle's golden samples as the executor does.

    Args:
        bundle: Any; a member that stands at two stages is written twice.
        path: A `.onnx` file; weights that it cannot hold lie beside it, as `path` with `.data` behind.
        image_size: Height and width of the images, uint8 (n, height, width, 3), that the graph then takes and
            prepares itself. By default it takes prepared tensors, one for each way to prepare an image.
        most_bytes: Of weights in the file itself.

    Raises:
        InvalidInput: The members do not fit together, or use operators that cannot be brought to one opset.
        NotTheSame: The file does not answer as the executor does.
    """
    plan = _plan(bundle, image_size)
    model = _model(bundle, plan)
    with _both_replaced(path) as temporary:
        n_bytes = sum((bundle.path / member.file).stat().st_size for member in bundle.stage_members)
        _save(model, temporary, is_large=n_bytes > most_bytes)
        onnx.checker.check_model(str(temporary))
        inputs = {} if image_size else dict(zip(plan.input_names, plan.preparations, strict=True))
        _replay(bundle, SingleFile(temporary, None, inputs, image_size))
    data = _data_path(path)
    return SingleFile(path, data if data.exists() else None, inputs, image_size)


def add_single_file(
    bundle: Bundle, *, image_size: ImageSize | None = None, most_bytes: int = graph.MOST_BYTES
) -> Bundle:
    """Write `cascade.onnx` into a bundle, and its digest into `bundle.json`.

    Raises:
        InvalidInput: See `write_single_file`.
        NotTheSame: See `write_single_file`.
    """
    single = write_single_file(bundle, bundle.path / NAME, image_size=image_size, most_bytes=most_bytes)
    ours = (NAME, f"{NAME}.data")
    files = {name: digest for name, digest in bundle.file.files.items() if name not in ours}
    files |= {path.name: sha256_of(path) for path in (single.path, single.data) if path is not None}
    file = bundle.file.model_copy(update={"files": dict(sorted(files.items()))})
    write_model(bundle.path / "bundle.json", file.sealed())
    return Bundle.open(bundle.path)


def run_single_file(single: SingleFile, images: Sequence[pillow.Image]) -> dict[str, NDArray[Any]]:
    """Answer images in a bare session: `probs`, `exit_stage` and `macs`."""
    session = create_session(single.path, "cpu")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, tensors_of(single, images)), strict=True))


def tensors_of(single: SingleFile, images: Sequence[pillow.Image]) -> Tensors:
    """Prepare images as a single file takes them; for one that takes pixels they have its size already."""
    if single.image_size is not None:
        return {"image": np.stack([np.atleast_3d(np.asarray(image)) for image in images])}
    return {name: prepare_batch(images, spec) for name, spec in single.inputs.items()}


def _plan(bundle: Bundle, image_size: ImageSize | None) -> Plan:
    models = _of_one_opset(bundle)
    specs = list(dict.fromkeys(member.preprocess for member in bundle.stage_members))
    channels = max(spec.channels for spec in specs)
    return Plan(
        cascade=bundle.cascade,
        stages=tuple(
            StageNetwork(models[member.name], member.macs, specs.index(member.preprocess))
            for member in bundle.stage_members
        ),
        preparations=tuple(specs),
        n_classes=len(bundle.labels),
        pixels=None if image_size is None else (*image_size, channels),
    )


def _of_one_opset(bundle: Bundle) -> dict[str, ModelProto]:
    """Read the members, and bring them to the newest opset among them.

    Raises:
        InvalidInput: One cannot be brought there, or does not answer the bundle's classes.
    """
    models, domains = {}, dict[str, int]()
    for member in dict.fromkeys(bundle.stage_members):
        place = str(bundle.path / member.file)
        model = graph.load(bundle.path / member.file)
        n_classes = graph.dims_of(graph.class_output(model, place))[-1:]
        if n_classes not in ((len(bundle.labels),), (None,)):
            raise InvalidInput(
                f"{place}: answers {n_classes[0]} classes, labels.json names {len(bundle.labels)}; all "
                "members of a cascade must know the same classes in the same order"
            )
        for entry in model.opset_import:
            known = domains.setdefault(entry.domain, entry.version)
            if entry.domain not in ("", "ai.onnx") and known != entry.version:
                raise InvalidInput(
                    f"{place}: uses version {entry.version} of the operators of {entry.domain}, another "
                    f"member version {known}; export them alike"
                )
        models[member.name] = model
    newest = max(graph.OPSET, *(graph.opset_of(model) for model in models.values()))
    return {
        name: graph.with_opset(model, newest, str(bundle.path / bundle.member(name).file))
        for name, model in models.items()
    }


def _model(bundle: Bundle, plan: Plan) -> ModelProto:
    members = [stage.model for stage in plan.stages]
    opsets = {entry.domain: entry for model in members for entry in model.opset_import}
    model = helper.make_model(
        cascade_graph(plan),
        opset_imports=list(opsets.values()),
        ir_version=max(_IR_VERSION, *(member.ir_version for member in members)),
        producer_name="encas",
        producer_version=__version__,
    )
    helper.set_model_props(model, _properties(bundle, plan))
    return model


def _properties(bundle: Bundle, plan: Plan) -> dict[str, str]:
    """Say what the graph is, in the words of a bundle; all values are JSON, or plain words."""
    stages = [
        {
            "member": stage.member,
            "threshold": stage.threshold,
            "macs": network.macs,
            "preprocess": plan.preparations[network.preparation].model_dump(mode="json"),
            "input": None if plan.pixels else plan.input_names[network.preparation],
        }
        for stage, network in zip(bundle.cascade.stages, plan.stages, strict=True)
    ]
    return {
        "format": "encas-single-file/1",
        "encas": __version__,
        "name": bundle.name,
        "version": bundle.file.version,
        "labels": json.dumps(bundle.labels, ensure_ascii=False),
        "stages": json.dumps(stages),
        "combine": bundle.cascade.combine,
        "confidence": bundle.cascade.confidence,
    }


def _save(model: ModelProto, path: Path, *, is_large: bool) -> None:
    if not is_large:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        location=_data_path(path).name,
        size_threshold=_SMALL_BYTES,
    )


def _data_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


@contextmanager
def _both_replaced(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder; what lies there takes its name when the block ends well.

    A file knows its data by name, so that both must lie together before they are checked.
    """
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        if _data_path(temporary).exists():
            _data_path(temporary).replace(_data_path(path))
        else:
            _data_path(path).unlink(missing_ok=True)
        temporary.replace(path)


def _replay(bundle: Bundle, single: SingleFile) -> None:
    """Compare a single file with the executor on the golden samples."""
    files = [bundle.path / sample.file for sample in bundle.file.golden]
    images = [_sized(decode(file, str(file)), single, bundle) for file in files]
    if not images:
        return
    with CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images)
    check_same(expected, run_single_file(single, images), str(bundle.path))


def _sized(image: pillow.Image, single: SingleFile, bundle: Bundle) -> pillow.Image:
    if single.image_size is None:
        return image
    gray = all(member.preprocess.channels == 1 for member in bundle.stage_members)
    image = image.convert("L" if gray else "RGB")
    height, width = single.image_size
    return image if image.size == (width, height) else image.resize((width, height))


def check_same(expected: Answers, found: dict[str, NDArray[Any]], place: str) -> None:
    """Check that a single file decides as the executor.

    Raises:
        NotTheSame: Says how many samples it decides otherwise, or by how much a probability differs.
    """
    label = np.asarray(found["probs"]).argmax(axis=1)
    other = (found["exit_stage"] != expected.exit_stage) | (label != expected.label)
    other |= found["macs"] != expected.macs
    largest = float(np.abs(found["probs"] - expected.probs).max(initial=0))
    if other.any() or not largest <= TOLERANCE:
        raise NotTheSame(
            f"{place}: the single file decides {int(other.sum())} of {len(expected)} golden samples "
            f"otherwise than the executor, and differs by up to {largest:.2g} in a probability"
        )
