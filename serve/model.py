"""What a bundle looks like from outside: the tensors that it takes, and those that it answers with."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from encas.bundle import Bundle
from encas.cascade import Answers
from encas.errors import InvalidInput
from encas.files import FileModel
from encas.gears import figures_of
from encas.serve.tensor import Tensor

INPUT = "image"
# Name -> datatype and shape; n samples (-1), c classes.
OUTPUTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "class": ("INT64", ("n",)),
    "label": ("BYTES", ("n",)),
    "confidence": ("FP32", ("n",)),
    "exit_stage": ("INT64", ("n",)),
    "macs": ("INT64", ("n",)),
    "probs": ("FP32", ("n", "c")),
}
GEAR = "gear"  # an output of bundles that have several: INT64 (n,), 0 the best
PLATFORM = "encas_onnx"

Images = tuple[bytes, ...] | NDArray[np.uint8] | NDArray[np.float32]


class TensorMetadata(FileModel):
    """One input or output; -1 in a shape is any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(FileModel):
    """What a client needs to know to ask a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: Mapping[str, str] = Field(
        description="Other forms of the input; the stages, what is guaranteed."
    )


def outputs_for(bundle: Bundle) -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """Return the outputs that a bundle has: `OUTPUTS`, and the gear where there are several."""
    return {**OUTPUTS, GEAR: ("INT64", ("n",))} if bundle.cheaper else OUTPUTS


def metadata_of(bundle: Bundle) -> ModelMetadata:
    """Describe a bundle as a model."""
    sizes = {"n": -1, "c": len(bundle.labels)}
    outputs = tuple(
        TensorMetadata(name=name, datatype=datatype, shape=tuple(sizes[letter] for letter in shape))
        for name, (datatype, shape) in outputs_for(bundle).items()
    )
    prepared = _prepared_shape(bundle)
    forms = {
        "image.BYTES": "[-1]: encoded images (JPEG, PNG, WebP, ...)",
        "image.UINT8": "[-1, height, width] or [-1, height, width, 3]: pixels, gray or RGB",
    }
    if prepared is not None:
        shape = ", ".join(map(str, prepared))
        forms["image.FP32"] = f"[-1, {shape}]: resized and normalised as the networks want it"
    return ModelMetadata(
        name=bundle.name,
        versions=(bundle.file.version,),
        platform=PLATFORM,
        inputs=(TensorMetadata(name=INPUT, datatype="BYTES", shape=(-1,)),),
        outputs=outputs,
        properties={**forms, **_guarantee(bundle), "cascade": str(bundle.cascade), **_gears(bundle)},
    )


def _gears(bundle: Bundle) -> dict[str, str]:
    """Say of each gear what it costs and how often it is right, as the front knows it."""
    found = figures_of(bundle.gears)
    if not bundle.cheaper or found is None:
        return {}
    split, figures = found
    return {
        f"gear.{number}": f"{gear}: accuracy {one.accuracy:.4f}, {one.macs / 1e6:.4g} MMACs on '{split}'"
        for number, (gear, one) in enumerate(zip(bundle.gears, figures, strict=True))
    }


def _guarantee(bundle: Bundle) -> dict[str, str]:
    certificate = bundle.cascade.certificate
    return {} if certificate is None else {"certificate": str(certificate)}


def images_of(tensor: Tensor, bundle: Bundle) -> Images:
    """Take the input tensor as a batch that the executor runs.

    Raises:
        InvalidInput: A datatype or shape that this bundle does not take, or no sample at all.
    """
    place, shape = f"input '{tensor.name}'", list(tensor.shape)
    if isinstance(tensor.data, tuple):
        fits, right = len(shape) == 1, "[n]"
    elif tensor.datatype == "UINT8":
        gray, colour = len(shape) == 3 and shape[2] != 3, len(shape) == 4 and shape[3] == 3
        fits, right = (gray or colour) and 0 not in shape[1:], "[n, height, width] or [n, height, width, 3]"
    elif tensor.datatype == "FP32":
        prepared = _prepared_shape(bundle)
        if prepared is None:
            raise InvalidInput(
                f"{place}: the stages of {bundle.name} prepare images in different ways, so FP32 tensors "
                "cannot suit them all; send BYTES (encoded images) or UINT8 (pixels)"
            )
        fits, right = (
            len(shape) == 4 and tuple(shape[1:]) == prepared,
            f"[n, {', '.join(map(str, prepared))}]",
        )
    else:
        raise InvalidInput(
            f"{place}: datatype is {tensor.datatype}; send BYTES (encoded images), UINT8 (pixels) or FP32"
        )
    if not fits:
        raise InvalidInput(f"{place}: {tensor.datatype} must have shape {right}, has {shape}")
    if shape[0] == 0:
        raise InvalidInput(f"{place}: shape {shape} has no sample; send at least one")
    return tensor.data


def check_top(top: Mapping[str, int]) -> None:
    """Refuse classes of an output that has none.

    Raises:
        InvalidInput: The classification extension was asked of something else than `probs`.
    """
    for name in top:
        if name != "probs":
            raise InvalidInput(f"output '{name}': the parameter classification works on 'probs' only")


def outputs_of(
    answers: Answers, bundle: Bundle, wanted: Collection[str] = tuple(OUTPUTS), top: int = 0, gear: int = 0
) -> dict[str, Tensor]:
    """Write what the cascade answered as the tensors of `OUTPUTS`, and the gear if it is wanted.

    With `top`, `probs` are the so many most probable classes instead, each as the text
    `probability:index:label`, as the classification extension has it.

    A confidence that is infinite (a logit gap to a probability of zero) becomes the largest FP32 number: JSON
    has no infinity, and both forms of an answer shall say the same.
    """
    values: dict[str, NDArray[Any]] = {
        "class": answers.label,
        "confidence": np.nan_to_num(answers.confidence),
        "exit_stage": answers.exit_stage,
        "macs": answers.macs,
        "probs": answers.probs,
    }
    tensors = {
        name: Tensor.of(name, OUTPUTS[name][0], array) for name, array in values.items() if name in wanted
    }
    if GEAR in wanted:
        tensors[GEAR] = Tensor.of(GEAR, "INT64", np.full(len(answers), gear, np.int64))
    if "label" in wanted:
        tensors["label"] = Tensor.of_texts("label", (bundle.labels[i] for i in answers.label))
    if top:
        tensors["probs"] = _classes(answers.probs, bundle.labels, top)
    return tensors


def _classes(probs: NDArray[np.float32], labels: Sequence[str], top: int) -> Tensor:
    best = np.argsort(-probs, axis=1, kind="stable")[:, :top]
    texts = (
        f"{probs[row, index]:f}:{index}:{labels[index]}"
        for row, indices in enumerate(best.tolist())
        for index in indices
    )
    return Tensor("probs", "BYTES", best.shape, tuple(text.encode() for text in texts))


def _prepared_shape(bundle: Bundle) -> tuple[int, int, int] | None:
    """Channels, height and width of a prepared sample, if all networks prepare images in the same way."""
    specs = {member.preprocess for member in bundle.gear_members}
    return specs.pop().shape if len(specs) == 1 else None
