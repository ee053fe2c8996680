"""The supernetwork: shared weights, of which every architecture uses a part."""

from typing import cast

import torch
from torch import Tensor, nn

from encas.search.nat.layout import layout_of, whole_layout
from encas.search.nat.network import BatchNorm, Block, Conv, Depthwise, Linear, Net
from encas.search.nat.space import Arch, Space


class Supernet(nn.Module):
    """All networks of a space, in the tensors of the largest.

    Nothing about an architecture is kept between calls. Weights are drawn from the generator; without one,
    they are undefined until they are loaded.
    """

    def __init__(self, space: Space, n_classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {n_classes}")
        self.space = space
        with torch.device("meta"):
            net = Net(whole_layout(space), n_classes)
        self.net = net.to_empty(device="cpu")
        if generator is not None:
            _draw(self.net, generator)

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.net.n_classes

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """(n, c) logits of one architecture, which leaves the other weights untouched.

        In eval mode this uses the shared running statistics, which fit no architecture: see
        `encas.search.nat.calibrate`.

        Raises:
            InvalidInput: The space has no such architecture.
        """
        return cast(Tensor, self.net(x, layout_of(self.space, arch)))

    @torch.no_grad()
    def extract(self, arch: Arch) -> Net:
        """Copy an architecture out as a plain network in eval mode, with the shared running statistics.

        Raises:
            InvalidInput: The space has no such architecture.
        """
        with torch.device("meta"):
            small = Net(layout_of(self.space, arch), self.n_classes)
        state = {
            f"{name}.{key}": tensor.clone(memory_format=torch.contiguous_format)
            for name, layer in small.named_modules()
            if isinstance(layer, Conv | Depthwise | BatchNorm | Linear)
            for key, tensor in cast(Conv, self.net.get_submodule(name)).cut_for(cast(Conv, layer)).items()
        }
        small.load_state_dict(state, assign=True)
        return small.eval()

    def draw_head(self, n_classes: int, generator: torch.Generator) -> None:
        """Replace the classifier by a new one for so many classes."""
        if n_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {n_classes}")
        old = self.net.classifier
        self.net.classifier = Linear(old.in_features, n_classes)
        _draw(self.net.classifier, generator)
        self.net.classifier.to(old.weight.device)


@torch.no_grad()
def _draw(network: nn.Module, generator: torch.Generator) -> None:
    """Draw weights: convolutions after He et al. 2015 by their outputs, classifiers from normal(0, 0.01)."""
    for layer in network.modules():
        if isinstance(layer, Conv | Depthwise):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        if isinstance(layer, Depthwise):
            for matrix in layer.matrices.values():
                nn.init.eye_(matrix)
        if isinstance(layer, BatchNorm):
            layer.reset_running_stats()
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        if isinstance(layer, Linear):
            nn.init.normal_(layer.weight, 0, 0.01, generator=generator)
            nn.init.zeros_(layer.bias)
    for block in network.modules():
        # Blocks start as their shortcut alone, which lets deep networks learn.
        if isinstance(block, Block) and block.has_shortcut:
            assert block.project.bn is not None
            nn.init.zeros_(block.project.bn.weight)
