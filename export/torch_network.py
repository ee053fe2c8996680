"""A torch module as a member: recorded in torch, exported to ONNX."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from encas.errors import InvalidInput
from encas.export.graph import dims_of, image_input, save
from encas.member import Precision
from encas.preprocess import Preprocess

OPSET = 18


class _Probs(nn.Module):
    """A classifier with its softmax, in float32 whatever the classifier computes in."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(image)
        return torch.softmax(logits.float(), dim=1)


@dataclass(frozen=True)
class TorchNetwork:
    """See `encas.export.source.Network`."""

    module: nn.Module  # from (n, channels, height, width) to (n, c) probabilities
    preprocess: Preprocess
    n_classes: int
    macs: int
    params: int
    engine: str
    device: str
    layout: torch.memory_format
    source: str
    precision: Precision = "fp32"

    def probs(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, c) softmax outputs for (n, channels, height, width) inputs."""
        given = torch.from_numpy(tensor).to(self.device, memory_format=self.layout)
        with torch.inference_mode(), _full_precision():
            found: NDArray[np.float32] = self.module(given).cpu().numpy()
        return found

    def write_onnx(self, path: Path) -> None:
        """Write it as an ONNX graph with a free batch axis that does what `probs` does.

        Raises:
            InvalidInput: The network cannot be traced with a free batch axis.
        """
        module = self.module.to("cpu").to(memory_format=torch.contiguous_format)
        try:
            with _quiet(), torch.inference_mode():
                program = torch.onnx.export(
                    module,
                    (torch.zeros(2, *self.preprocess.shape),),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    input_names=["image"],
                    output_names=["probs"],
                    opset_version=OPSET,
                    verbose=False,
                )
        except Exception as error:  # the exporter's own errors, and whatever the module raises
            reason = " ".join(str(error).split())[:300]
            raise InvalidInput(f"{self.source}: torch cannot export it to ONNX: {reason}") from error
        finally:
            self.module.to(self.device).to(memory_format=self.layout)
        assert program is not None
        model = program.model_proto
        if dims_of(image_input(model, self.source))[0] is not None:
            raise InvalidInput(
                f"{self.source}: torch fixed the number of samples in the ONNX graph, because the module's "
                "code depends on it; write the module without loops over samples"
            )
        save(model, path)


def check_device(device: str) -> None:
    """Refuse what is not there.

    Raises:
        InvalidInput: "cuda", where torch finds no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device 'cuda': torch finds no CUDA device here; use --device cpu")


def open_module(module: nn.Module, preprocess: Preprocess, device: str, source: str) -> TorchNetwork:
    """Make a classifier ready, and count what it costs.

    Args:
        module: Answers (n, channels, height, width) with (n, c) logits.
        preprocess: Says the shape of a sample.
        device: "cpu" or "cuda".
        source: What errors call it.

    Raises:
        InvalidInput: The device is not there, or the module does not answer with logits.
    """
    check_device(device)
    module = module.eval().requires_grad_(False).to("cpu")
    sample = torch.zeros(1, *preprocess.shape)
    macs, logits = _run_counted(module, sample, source)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidInput(f"{source}: must answer one sample with (1, classes) logits, answers {found}")
    if is_distribution(logits.float().numpy()):
        raise InvalidInput(f"{source}: answers with probabilities; return logits, without the softmax")
    layout = _fast_layout(module, sample)
    return TorchNetwork(
        module=_Probs(module).eval().to(device).to(memory_format=layout),
        preprocess=preprocess,
        n_classes=logits.shape[1],
        macs=macs,
        params=_count_weights(module),
        engine=f"torch {torch.__version__.partition('+')[0]}" + (" cuda" if device == "cuda" else ""),
        device=device,
        layout=layout,
        source=source,
    )


def _fast_layout(module: nn.Module, sample: Tensor) -> torch.memory_format:
    """Choose channels last, which halves the time of many networks, unless the module cannot work with it."""
    module.to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            module(sample.to(memory_format=torch.channels_last))
    except RuntimeError:  # `view` wants the old layout
        return torch.contiguous_format
    return torch.channels_last


def _count_weights(module: nn.Module) -> int:
    n = sum(parameter.numel() for parameter in module.parameters())
    # Networks made for inference alone keep their weights as buffers.
    return n or sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())


def is_distribution(outputs: NDArray[np.float32]) -> bool:
    """Whether all rows are probabilities already."""
    return bool(outputs.min() >= 0 and np.abs(outputs.sum(axis=1) - 1).max() < 1e-3)


def _run_counted(module: nn.Module, sample: Tensor, source: str) -> tuple[int, object]:
    # The counter knows attention's matrix products, but not the fused kernels for the CPU.
    try:
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            output = module(sample)
    except Exception as error:  # the module's own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"{source}: cannot run on one sample of shape {tuple(sample.shape[1:])}: {reason}"
        ) from error
    return counter.get_total_flops() // 2, output


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep float32 on GPUs: TensorFloat32 would move probabilities by more than an engine's rounding."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's running commentary off the terminal; its errors are raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
