from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pillow = pytest.importorskip("PIL.Image")

from encas.export.nodes import Nodes  # noqa: E402
from encas.export.pixels import add_preparation, plan  # noqa: E402
from encas.preprocess import Preprocess  # noqa: E402
from encas.runtime import create_session, prepare_batch  # noqa: E402

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def prepared_inside(images: Any, spec: Preprocess) -> Any:
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = Nodes("x_")
    name = add_preparation(nodes, "image", images.shape[1:], spec)
    nodes.nodes.append(helper.make_node("Identity", [name], ["tensor"]))
    graph = nodes.graph(
        "prepare",
        [helper.make_tensor_value_info("image", kinds.UINT8, ["n", *images.shape[1:]])],
        [helper.make_tensor_value_info("tensor", kinds.FLOAT, ["n", *spec.shape])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return create_session(model.SerializeToString(), "cpu").run(None, {"image": images})[0]


@pytest.mark.slow
@settings(max_examples=60)
@given(data=st.data(), given_size=sizes, size=sizes)
def test_tensors_have_the_bytes_of_the_runtime(data: st.DataObject, given_size: Any, size: Any) -> None:
    channels: Any = data.draw(st.sampled_from([1, 3]))
    spec = Preprocess(
        channels=channels,
        size=size,
        interpolation=data.draw(
            st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
        ),
        crop_pct=data.draw(st.sampled_from([1.0, 0.875, 0.5])),
        crop_mode=data.draw(st.sampled_from(["center", "squash", "border"])),
        divisor=data.draw(st.sampled_from([255.0, 1.0])),
        mean=(0.485, 0.456, 0.406)[:channels],
        std=(0.229, 0.224, 0.225)[:channels],
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    images = rng.integers(0, 256, (3, *given_size, 3), np.uint8)
    images[0] = np.where(images[0] < 128, 0, 255)  # where filters overshoot
    expected = prepare_batch([pillow.fromarray(image) for image in images], spec)
    assert np.array_equal(prepared_inside(images, spec), expected)


def test_images_of_the_right_size_are_not_resized() -> None:
    passes, background = plan(8, 8, Preprocess(size=(8, 8)))
    assert all(one.is_crop for one in passes) and background is None


def test_a_crop_of_what_keeps_its_size_is_no_product() -> None:
    passes, _ = plan(10, 8, Preprocess(size=(8, 8)))
    assert all(one.is_crop for one in passes)


@pytest.mark.slow
@pytest.mark.parametrize("given_size", [(5, 2), (2, 5), (9, 4)])
def test_the_order_of_the_passes_is_found_where_both_orders_mostly_agree(given_size: tuple[int, int]) -> None:
    spec = Preprocess(channels=3, size=(1, 1), interpolation="bilinear", crop_pct=1.0, crop_mode="center")
    images = np.random.default_rng(1).integers(0, 256, (500, *given_size, 3), np.uint8)
    expected = prepare_batch([pillow.fromarray(image) for image in images], spec)
    assert np.array_equal(prepared_inside(images, spec), expected)
