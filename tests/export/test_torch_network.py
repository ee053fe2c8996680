from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encas.errors import InvalidInput
from encas.preprocess import Preprocess
from encas.runtime import open_session

torch = pytest.importorskip("torch")
from encas.export.torch_network import open_module  # noqa: E402

nn = torch.nn
TWO = Preprocess(size=(2, 2), channels=1, mean=(0.0,), std=(1.0,))


class Attentive(nn.Module):  # type: ignore[misc, name-defined]
    """A grouped convolution, attention over its positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.mix = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.conv(torch.cat([x, x[:, :1]], 1)).flatten(2).transpose(1, 2)
        q, k, v = self.mix(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(x.transpose(1, 2).flatten(2).mean(1))


# 8 outputs at 6 x 6 positions of 1 x 3 x 3 kernels; 36 positions of 8 x 24; 2 heads of 36 x 36 x 4, twice.
ATTENTIVE_MACS = 8 * 36 * 9 + 36 * 8 * 24 + 2 * 2 * 36 * 36 * 4 + 8 * 5


def linear() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def test_the_answer_is_the_softmax_of_the_logits() -> None:
    module = linear()
    network = open_module(module, TWO, "cpu", "here")
    x = np.random.default_rng(0).random((5, 1, 2, 2), np.float32)
    logits = module(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(
        network.probs(x), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-6
    )
    assert (network.n_classes, network.macs, network.params) == (3, 12, 15)
    assert network.engine.startswith("torch 2")


def test_dropout_is_off() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    network = open_module(module, TWO, "cpu", "here")
    x = np.ones((1, 1, 2, 2), np.float32)
    assert np.array_equal(network.probs(x), network.probs(x))


def test_attention_is_counted_although_the_cpu_fuses_it() -> None:
    assert open_module(Attentive(), Preprocess(size=(6, 6)), "cpu", "here").macs == ATTENTIVE_MACS


def test_weights_that_are_buffers_are_counted() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    frozen = nn.Module()
    frozen.register_buffer("w", module[1].weight.detach())
    frozen.forward = lambda x: x.flatten(1) @ frozen.w.T
    assert open_module(frozen, TWO, "cpu", "here").params == 12


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(linear(), nn.Softmax(1)), "answers with probabilities; return logits"),
        (nn.Identity(), r"must answer one sample with \(1, classes\) logits, answers \(1, 1, 2, 2\)"),
        (nn.Linear(7, 3), r"cannot run on one sample of shape \(1, 2, 2\)"),
    ],
)
def test_a_module_that_is_no_classifier_is_refused(module: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_module(module, TWO, "cpu", "here")


def test_a_module_that_needs_the_old_layout_gets_it() -> None:
    class Viewing(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Any) -> Any:
            return self.conv(x).view(len(x), -1)

    module = Viewing()
    network = open_module(module, Preprocess(size=(6, 6)), "cpu", "here")
    x = np.random.default_rng(0).random((2, 3, 6, 6), np.float32)
    expected = torch.softmax(module(torch.from_numpy(x)), 1)
    assert np.allclose(network.probs(x), expected.detach().numpy(), atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match="torch finds no CUDA device here; use --device cpu"):
        open_module(linear(), TWO, "cuda", "here")


@pytest.mark.slow
def test_the_export_answers_and_costs_the_same(tmp_path: Path) -> None:
    from encas.export.graph import load, opset_of
    from encas.export.onnx_network import open_onnx

    preprocess = Preprocess(size=(6, 6))
    network = open_module(Attentive(), preprocess, "cpu", "here")
    network.write_onnx(tmp_path / "a.onnx")
    session = open_session(tmp_path / "a.onnx", "cpu")
    assert (session.input, session.output, session.batch) == ("image", "probs", None)
    x = np.random.default_rng(0).standard_normal((5, 3, 6, 6), np.float32)
    for n in (1, 2, 5):
        assert np.allclose(session.run(x[:n]), network.probs(x[:n]), atol=1e-6)
    assert open_onnx(tmp_path / "a.onnx", preprocess, "cpu").macs == ATTENTIVE_MACS
    assert opset_of(load(tmp_path / "a.onnx")) == 18
    # No path or line of anybody's source code goes along.
    assert b".py" not in (tmp_path / "a.onnx").read_bytes()
    network.write_onnx(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_a_module_that_fixes_the_batch_is_refused(tmp_path: Path) -> None:
    class OneByOne(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return torch.cat([sample.flatten()[None] for sample in x])

    network = open_module(OneByOne(), TWO, "cpu", "here")
    with pytest.raises(InvalidInput, match="torch fixed the number of samples in the ONNX graph"):
        network.write_onnx(tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
