"""The network of a layout, made of layers of which a smaller network may use a part.

A supernetwork and the networks that are extracted from it are the same code: every layer is told how much of
it is used, and `cut` says which tensors that means. Running a part and copying it out go by the same cut.
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encas.search.nat.layout import BlockLayout, Layout
from encas.search.nat.space import Act

Cut = dict[str, Tensor]


def _first(tensor: Tensor, *sizes: int) -> Tensor:
    """Return the first so many along each of the first axes; the tensor itself if that is all of it."""
    whole = tensor.shape[: len(sizes)] == sizes
    return tensor if whole else tensor[tuple(slice(size) for size in sizes)]


class Conv(nn.Conv2d):
    """A dense convolution; its weights are left undefined, for whoever makes it draws or loads them."""

    def reset_parameters(self) -> None:
        """Do nothing: drawing weights that are replaced at once costs most of the time."""

    def cut(self, n_in: int, n_out: int) -> Cut:
        """Return the tensors between the first channels."""
        cut = {"weight": _first(self.weight, n_out, n_in)}
        return cut if self.bias is None else cut | {"bias": _first(self.bias, n_out)}

    def cut_for(self, other: "Conv") -> Cut:
        """Return the tensors that a smaller layer has."""
        return self.cut(other.in_channels, other.out_channels)

    def forward(self, x: Tensor, n_out: int | None = None) -> Tensor:
        """Compute the first channels, from as many as `x` has."""
        cut = self.cut(x.shape[1], n_out or self.out_channels)
        return F.conv2d(x, cut["weight"], cut.get("bias"), self.stride, self.padding)


class Depthwise(nn.Conv2d):
    """A convolution of each channel, of which smaller kernels are learnt or central parts."""

    def __init__(self, n: int, kernels: tuple[int, ...], stride: int, *, matrices: bool) -> None:
        super().__init__(n, n, kernels[0], stride, kernels[0] // 2, groups=n, bias=False)
        self.kernels = kernels
        self.matrices = nn.ParameterDict()
        if matrices:
            for larger, smaller in pairwise(kernels):
                self.matrices[f"{larger}to{smaller}"] = nn.Parameter(torch.empty(smaller**2, smaller**2))

    def reset_parameters(self) -> None:
        """Do nothing, as `Conv`."""

    def cut(self, n: int, kernel: int) -> Cut:
        """Return the kernels of the first channels, made smaller one size at a time."""
        weight = _first(self.weight, n)
        for larger, smaller in pairwise(self.kernels):
            if larger == kernel:
                break
            margin = (larger - smaller) // 2
            weight = weight[:, :, margin:-margin, margin:-margin]
            if self.matrices:
                flat = weight.reshape(n, smaller**2)
                weight = F.linear(flat, self.matrices[f"{larger}to{smaller}"]).view(n, 1, smaller, smaller)
        return {"weight": weight}

    def cut_for(self, other: "Depthwise") -> Cut:
        """Return the tensors that a smaller layer has."""
        return self.cut(other.in_channels, other.kernels[0])

    def forward(self, x: Tensor, kernel: int | None = None) -> Tensor:
        """Convolve as many channels as `x` has."""
        n, kernel = x.shape[1], kernel or self.kernels[0]
        return F.conv2d(x, self.cut(n, kernel)["weight"], None, self.stride, kernel // 2, 1, n)


class BatchNorm(nn.BatchNorm2d):
    """A normalisation of the first channels; training moves their running statistics, not the others."""

    def reset_parameters(self) -> None:
        """Do nothing, as `Conv`."""

    def cut(self, n: int) -> Cut:
        """Return the tensors of the first channels."""
        assert self.running_mean is not None and self.running_var is not None
        return {
            "weight": _first(self.weight, n),
            "bias": _first(self.bias, n),
            "running_mean": _first(self.running_mean, n),
            "running_var": _first(self.running_var, n),
        }

    def cut_for(self, other: "BatchNorm") -> Cut:
        """Return the tensors that a smaller layer has."""
        assert self.num_batches_tracked is not None
        return self.cut(other.num_features) | {"num_batches_tracked": self.num_batches_tracked}

    def forward(self, x: Tensor) -> Tensor:
        """Normalise as many channels as `x` has."""
        if x.shape[1] == self.num_features:
            return super().forward(x)
        cut, rate = self.cut(x.shape[1]), 0.0
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return F.batch_norm(x, **cut, training=self.training, momentum=rate, eps=self.eps)


class Linear(nn.Linear):
    """A linear layer from the first inputs."""

    def reset_parameters(self) -> None:
        """Do nothing, as `Conv`."""

    def cut(self, n_in: int) -> Cut:
        """Return the tensors from the first inputs."""
        return {"weight": _first(self.weight, self.out_features, n_in), "bias": self.bias}

    def cut_for(self, other: "Linear") -> Cut:
        """Return the tensors that a smaller layer has."""
        return self.cut(other.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Compute all outputs, from as many inputs as `x` has."""
        return F.linear(x, **self.cut(x.shape[1]))


class ConvBnAct(nn.Module):
    """A dense convolution, normalised if `eps` is given, then what is called the activation."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, *, eps: float | None, act: Act | None, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = Conv(n_in, n_out, kernel, stride, kernel // 2, bias=False)
        self.bn = None if eps is None else BatchNorm(n_out, eps)
        self.act = None if act is None else _activation(act)

    def forward(self, x: Tensor, n_out: int) -> Tensor:
        """Compute the first channels."""
        x = self.conv(x, n_out)
        x = x if self.bn is None else self.bn(x)
        return x if self.act is None else cast(Tensor, self.act(x))


class DepthwiseBnAct(nn.Module):
    """A convolution of each channel, normalised, activated."""

    def __init__(self, block: BlockLayout, *, matrices: bool, eps: float) -> None:
        super().__init__()
        self.conv = Depthwise(block.n_mid, block.kernels, block.stride, matrices=matrices)
        self.bn = BatchNorm(block.n_mid, eps)
        self.act = _activation(block.act)

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        """Convolve as many channels as `x` has."""
        return cast(Tensor, self.act(self.bn(self.conv(x, kernel))))


class SqueezeExcite(nn.Module):
    """A gate for each channel, computed from the means of all."""

    def __init__(self, n: int, n_squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = Conv(n, n_squeezed, 1), Conv(n_squeezed, n, 1)

    def forward(self, x: Tensor, n_squeezed: int) -> Tensor:
        """Gate as many channels as `x` has."""
        means = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(means, n_squeezed)), x.shape[1]))


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, block: BlockLayout, *, matrices: bool, eps: float) -> None:
        super().__init__()
        widen, project = (block.n_in, block.n_mid, 1), (block.n_mid, block.n_out, 1)
        self.expand = ConvBnAct(*widen, eps=eps, act=block.act) if block.widens else None
        self.depth = DepthwiseBnAct(block, matrices=matrices, eps=eps)
        self.se = SqueezeExcite(block.n_mid, block.n_squeezed) if block.n_squeezed else None
        self.project = ConvBnAct(*project, eps=eps, act=None)
        self.has_shortcut = block.has_shortcut
        self.shortcut = Conv(block.n_in, block.n_out, 1, bias=False) if block.projects else None

    def forward(self, x: Tensor, part: BlockLayout) -> Tensor:
        """Run the part of the block that a layout names."""
        y = x if self.expand is None else self.expand(x, part.n_mid)
        y = self.depth(y, part.kernels[0])
        y = y if self.se is None else self.se(y, part.n_squeezed)
        y = self.project(y, part.n_out)
        if not self.has_shortcut:
            return cast(Tensor, y)
        if part.stride == 2:
            x = F.avg_pool2d(x, 2, padding=x.shape[-1] % 2)
        if part.projects:
            assert self.shortcut is not None
            x = self.shortcut(x, part.n_out)
        return cast(Tensor, y + x)


class Net(nn.Module):
    """A whole network, from (n, 3, height, width) images to (n, c) logits; its weights are undefined."""

    def __init__(self, layout: Layout, n_classes: int) -> None:
        super().__init__()
        self.layout = layout
        matrices, eps, act = layout.kernel_matrices, layout.bn_eps, layout.act
        n_last = layout.stages[-1][-1].n_out
        self.stem = ConvBnAct(3, layout.stem, 3, eps=eps, act=act, stride=2)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(block, matrices=matrices, eps=eps) for block in stage)
            for stage in layout.stages
        )
        self.final = ConvBnAct(n_last, layout.n_final, 1, eps=eps, act=act) if layout.n_final else None
        n_mixed, mix_eps = (layout.n_final, None) if layout.n_final else (n_last, eps)
        self.mix = ConvBnAct(n_mixed, layout.head, 1, eps=mix_eps, act=act)
        self.classifier = Linear(layout.head, n_classes)

    def forward(self, x: Tensor, part: Layout | None = None) -> Tensor:
        """Run the network, or the part of it that a smaller layout names."""
        part = self.layout if part is None else part
        x = self.stem(x, part.stem)
        for stage, blocks in zip(self.stages, part.stages, strict=True):
            # A smaller network uses the first blocks of each stage.
            for block, of_block in zip(cast(nn.ModuleList, stage), blocks, strict=False):
                x = block(x, of_block)
        if self.final is None:
            x = self.mix(x, part.head).mean((2, 3))
        else:
            x = self.mix(self.final(x, part.n_final).mean((2, 3), keepdim=True), part.head).flatten(1)
        return cast(Tensor, self.classifier(x))

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.classifier.out_features


def _activation(act: Act) -> nn.Module:
    return {"relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "swish": nn.SiLU}[act]()
