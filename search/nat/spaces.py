"""The five spaces of the paper, and a tiny sibling of each family for inputs of 16 to 32 pixels.

Sources: once-for-all (Cai et al., ICLR 2020, arXiv:1908.09791), ProxylessNAS (ICLR 2019, arXiv:1812.00332),
AttentiveNAS (CVPR 2021, arXiv:2011.09011), AlphaNet (ICML 2021, arXiv:2102.07954).
"""

from collections.abc import Mapping
from dataclasses import replace

from encas.errors import InvalidInput
from encas.search.nat.layout import round8
from encas.search.nat.space import Act, Space, Stage

_TINY = tuple(range(16, 33, 4))


def space_named(name: str) -> Space:
    """Find a space.

    Raises:
        InvalidInput: There is none of this name.
    """
    if name not in SPACES:
        raise InvalidInput(f"space '{name}': there is none; must be one of {', '.join(SPACES)}")
    return SPACES[name]


def _ofa(name: str, stem: int, stages: tuple[Stage, ...], head: int, *, mobilenet_v3: bool) -> Space:
    return Space(
        name=name,
        resolutions=tuple(range(128, 257, 4)),
        searched=tuple(range(192, 257, 4)),
        stem_widths=(stem,),
        stages=stages,
        head_widths=(head,),
        act="hswish" if mobilenet_v3 else "relu6",
        final_expand=6 if mobilenet_v3 else 0,
        shortcut="identity",
        kernel_matrices=True,
        genes_per="block",
        bn_eps=1e-5 if mobilenet_v3 else 1e-3,
    )


def _ofa_stage(width: int, stride: int, act: Act, se: bool = False) -> Stage:
    return Stage((width,), (2, 3, 4), (3, 5, 7), (3, 4, 6), stride, act, se)


def _ofa_mobilenet_v3(factor: float) -> Space:
    first, *widths = (round8(width * factor) for width in (16, 24, 40, 80, 112, 160))
    acts: tuple[Act, ...] = ("relu", "relu", "hswish", "hswish", "hswish")
    kinds = zip(widths, (2, 2, 2, 1, 2), acts, (False, True, False, True, True), strict=True)
    stages = (Stage((first,), (1,), (3,), (1,), 1, "relu"), *(_ofa_stage(*kind) for kind in kinds))
    return _ofa(f"ofa-mbv3-w{factor}", first, stages, round8(1280 * factor), mobilenet_v3=True)


def _ofa_proxyless(factor: float) -> Space:
    stem, first, *widths, last = (round8(width * factor) for width in (32, 16, 24, 40, 80, 96, 192, 320))
    stages = (
        Stage((first,), (1,), (3,), (1,), 1, "relu6"),
        *(_ofa_stage(width, stride, "relu6") for width, stride in zip(widths, (2, 2, 2, 1, 2), strict=True)),
        Stage((last,), (1,), (3, 5, 7), (3, 4, 6), 1, "relu6"),
    )
    return _ofa(f"ofa-proxyless-w{factor}", stem, stages, round8(1280 * factor), mobilenet_v3=False)


_ALPHANET = Space(
    name="alphanet",
    resolutions=(192, 224, 256, 288),
    searched=(192, 224, 256, 288),
    stem_widths=(16, 24),
    stages=(
        Stage((16, 24), (1, 2), (3, 5), (1,), 1, "swish"),
        Stage((24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2, "swish"),
        Stage((32, 40), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, "swish", se=True),
        Stage((64, 72), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, "swish"),
        Stage((112, 120, 128), (3, 4, 5, 6, 7, 8), (3, 5), (4, 5, 6), 1, "swish", se=True),
        Stage((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (3, 5), (6,), 2, "swish", se=True),
        Stage((216, 224), (1, 2), (3, 5), (6,), 1, "swish", se=True),
    ),
    head_widths=(1792, 1984),
    act="swish",
    final_expand=6,
    shortcut="project",
    kernel_matrices=False,
    genes_per="stage",
)


# A stem that halves the resolution is several times quicker than one that does not, for little accuracy, and
# large kernels are slow on the large maps of the early stages.
def _tiny_mobilenet_v3(factor: float) -> Space:
    stem, *widths = (round8(width * factor) for width in (16, 24, 40, 64))
    return Space(
        name=f"tiny-mbv3-w{factor}",
        resolutions=_TINY,
        searched=_TINY,
        stem_widths=(stem,),
        stages=(
            Stage((stem,), (1,), (3,), (1,), 1, "relu"),
            Stage((widths[0],), (1, 2), (3,), (2, 3), 1, "relu"),
            Stage((widths[1],), (1, 2, 3), (3, 5), (2, 3, 4), 2, "relu", se=True),
            Stage((widths[2],), (1, 2, 3), (3, 5), (2, 3, 4), 2, "hswish", se=True),
        ),
        head_widths=(round8(256 * factor),),
        act="hswish",
        final_expand=2,
        shortcut="identity",
        kernel_matrices=True,
        genes_per="block",
    )


_TINY_PROXYLESS = Space(
    name="tiny-proxyless",
    resolutions=_TINY,
    searched=_TINY,
    stem_widths=(24,),
    stages=(
        Stage((16,), (1,), (3,), (1,), 1, "relu6"),
        Stage((24,), (1, 2), (3,), (2, 3), 1, "relu6"),
        Stage((40,), (1, 2, 3), (3, 5), (2, 3, 4), 2, "relu6"),
        Stage((64,), (1, 2, 3), (3, 5, 7), (2, 3, 4), 2, "relu6"),
        Stage((80,), (1,), (3, 5), (2, 3, 4), 1, "relu6"),
    ),
    head_widths=(256,),
    act="relu6",
    final_expand=0,
    shortcut="identity",
    kernel_matrices=True,
    genes_per="block",
)
_TINY_ALPHANET = Space(
    name="tiny-alphanet",
    resolutions=_TINY,
    searched=_TINY,
    stem_widths=(16, 24),
    stages=(
        Stage((16, 24), (1, 2), (3,), (1,), 1, "swish"),
        Stage((24, 32), (1, 2, 3), (3, 5), (2, 3, 4), 2, "swish", se=True),
        Stage((48, 56, 64), (1, 2, 3), (3, 5), (2, 3, 4), 2, "swish", se=True),
    ),
    head_widths=(192, 256),
    act="swish",
    final_expand=2,
    shortcut="project",
    kernel_matrices=False,
    genes_per="stage",
)

SPACES: Mapping[str, Space] = {
    space.name: space
    for space in (
        _ofa_mobilenet_v3(1.0),
        _ofa_mobilenet_v3(1.2),
        _ofa_proxyless(1.3),
        replace(_ALPHANET, name="attentivenas"),
        _ALPHANET,
        _tiny_mobilenet_v3(1.0),
        _tiny_mobilenet_v3(1.2),
        _TINY_PROXYLESS,
        replace(_TINY_ALPHANET, name="tiny-attentivenas"),
        _TINY_ALPHANET,
    )
}
