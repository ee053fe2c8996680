"""Figures that others published, to be drawn beside ours.

Read off plots of the ENCAS paper (arXiv:2203.04011) unless said otherwise: accuracy in percent at millions
of multiply-accumulates, on the paper's test data. They are of full-sized networks.
"""

from collections.abc import Mapping

PUBLISHED: Mapping[str, tuple[tuple[float, float], ...]] = {
    "encas-cifar10": ((95, 95.2), (140, 97.9), (190, 98.25), (275, 98.5), (440, 98.57)),
    "encas-cifar100": ((95, 77), (200, 86), (435, 88.2), (1_330, 88.97)),
    "encas-imagenet": ((100, 67.5), (215, 78), (340, 80.0), (480, 80.8), (900, 82.1), (2_520, 82.7)),
    "encas-timm": (
        (48, 66),
        (128, 75),
        (310, 80),
        (2_200, 85),
        (10_000, 86.9),
        (60_000, 88.3),
        (200_000, 88.9),
        (296_000, 89.0),
    ),
}
LABELS: Mapping[str, str] = {
    "encas-cifar10": "ENCAS paper, CIFAR-10, five supernetworks (read off)",
    "encas-cifar100": "ENCAS paper, CIFAR-100, five supernetworks (read off)",
    "encas-imagenet": "ENCAS paper, ImageNet, five supernetworks (read off)",
    "encas-timm": "ENCAS paper, 518 networks of timm (read off)",
}
# Lebovitz et al., TMLR 2023: how many times less compute cascades take at the accuracy of a single network.
LEBOVITZ: tuple[tuple[str, float], ...] = (
    ("80 to 86 %, two networks", 1.9),
    ("above 86 %, two networks", 3.1),
    ("above 87 %, three networks", 4.4),
)
