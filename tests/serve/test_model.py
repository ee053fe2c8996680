from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from encas.bundle import Bundle
from encas.cascade import Answers
from encas.certificate import Certificate
from encas.errors import InvalidInput
from encas.preprocess import Preprocess
from encas.serve.model import OUTPUTS, images_of, metadata_of, outputs_of
from encas.serve.tensor import Tensor


@pytest.fixture
def two_ways(bundle: Bundle) -> Bundle:
    """The digits bundle, its last member wanting other images than the first two."""
    *others, last = bundle.file.members
    resized = last.model_copy(
        update={"preprocess": Preprocess(channels=1, size=(16, 16), mean=(0.0,), std=(1.0,))}
    )
    return replace(bundle, file=bundle.file.model_copy(update={"members": (*others, resized)}))


def pixels(*shape: int) -> Tensor:
    return Tensor.of("image", "UINT8", np.zeros(shape, np.uint8))


def prepared(*shape: int) -> Tensor:
    return Tensor.of("image", "FP32", np.zeros(shape, np.float32))


def test_the_metadata_names_the_shapes_of_this_bundle(bundle: Bundle) -> None:
    metadata = metadata_of(bundle)
    assert (metadata.name, metadata.versions) == ("digits", ("1",))
    assert [(i.name, i.datatype, i.shape) for i in metadata.inputs] == [("image", "BYTES", (-1,))]
    outputs = {output.name: (output.datatype, output.shape) for output in metadata.outputs}
    assert outputs == {
        "class": ("INT64", (-1,)),
        "label": ("BYTES", (-1,)),
        "confidence": ("FP32", (-1,)),
        "exit_stage": ("INT64", (-1,)),
        "macs": ("INT64", (-1,)),
        "probs": ("FP32", (-1, 10)),
    }
    assert metadata.properties["image.FP32"].startswith("[-1, 1, 8, 8]")
    assert metadata.properties["cascade"] == "hidden016 >0.8 hidden064 >0.8 hidden512"


def test_the_metadata_says_what_is_guaranteed(bundle: Bundle) -> None:
    assert "certificate" not in metadata_of(bundle).properties
    certificate = Certificate(
        loss="accuracy",
        method="learn-then-test",
        risk=0.01,
        confidence=0.95,
        split="test",
        n=5000,
        n_lost=38,
        p_value=0.04,
        step=0.9,
        thresholds=(0.8, 0.8),
        saving=0.5,
        saving_before=0.6,
    )
    certified = bundle.cascade.model_copy(update={"certificate": certificate})
    said = metadata_of(replace(bundle, cascade=certified)).properties["certificate"]
    assert said.startswith(
        "at most 1 % lost against all stages (confidence 0.95, learn-then-test; 38 of 5000"
    )


def test_members_that_prepare_images_differently_take_no_prepared_tensor(two_ways: Bundle) -> None:
    assert "image.FP32" not in metadata_of(two_ways).properties
    assert len(images_of(pixels(2, 8, 8), two_ways)) == 2
    with pytest.raises(InvalidInput, match="send BYTES"):
        images_of(prepared(2, 1, 8, 8), two_ways)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("image", "BYTES", (2,), (b"a", b"b")),
        pixels(2, 8, 8),
        pixels(2, 300, 200, 3),
        prepared(2, 1, 8, 8),
    ],
    ids=lambda tensor: f"{tensor.datatype}{tensor.shape}",
)
def test_every_form_of_the_input_gives_its_samples(tensor: Tensor, bundle: Bundle) -> None:
    assert images_of(tensor, bundle) is tensor.data


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (Tensor("image", "BYTES", (1, 1), (b"a",)), "BYTES must have shape [n], has [1, 1]"),
        (Tensor("image", "BYTES", (), (b"a",)), "BYTES must have shape [n], has []"),
        (Tensor("image", "BYTES", (0,), ()), "shape [0] has no sample"),
        (pixels(8, 8), "UINT8 must have shape [n, height, width] or [n, height, width, 3], has [8, 8]"),
        (pixels(8, 8, 3), "has [8, 8, 3]"),  # one colour image, its n forgotten
        (pixels(1, 8, 8, 4), "has [1, 8, 8, 4]"),
        (pixels(1, 0, 8), "has [1, 0, 8]"),
        (pixels(0, 8, 8), "has no sample"),
        (prepared(1, 8, 8), "FP32 must have shape [n, 1, 8, 8], has [1, 8, 8]"),
        (prepared(1, 3, 8, 8), "FP32 must have shape [n, 1, 8, 8], has [1, 3, 8, 8]"),
        (Tensor.of("image", "INT64", np.zeros((1, 8, 8))), "datatype is INT64; send BYTES"),
    ],
)
def test_a_tensor_that_does_not_fit_is_told(tensor: Tensor, says: str, bundle: Bundle) -> None:
    with pytest.raises(InvalidInput) as error:
        images_of(tensor, bundle)
    assert says in str(error.value)


def answers(**changes: Any) -> Answers:
    fields = {
        "probs": np.array([[0.0, 1.0] + [0.0] * 8, [0.7, 0.3] + [0.0] * 8], np.float32),
        "label": np.array([1, 0]),
        "confidence": np.array([1.0, 0.7], np.float32),
        "exit_stage": np.array([0, 2]),
        "macs": np.array([5, 90]),
    }
    return Answers(**{**fields, **changes})


def test_the_outputs_are_what_the_metadata_promises(bundle: Bundle) -> None:
    tensors = outputs_of(answers(), bundle)
    assert set(tensors) == set(OUTPUTS)
    for output in metadata_of(bundle).outputs:
        tensor = tensors[output.name]
        assert tensor.datatype == output.datatype
        assert tensor.shape == tuple(2 if size == -1 else size for size in output.shape)
    assert tensors["label"].data == (b"digit 1", b"digit 0")
    assert np.asarray(tensors["macs"].data).tolist() == [5, 90]


def test_an_infinite_confidence_becomes_the_largest_number(bundle: Bundle) -> None:
    tensors = outputs_of(answers(confidence=np.array([np.inf, 0.7], np.float32)), bundle)
    assert np.asarray(tensors["confidence"].data).tolist() == [np.finfo(np.float32).max, np.float32(0.7)]
