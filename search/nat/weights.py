"""Where the published weights of the supernetworks are, and under which licence. None comes with encas."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A checkpoint that its authors publish."""

    space: str
    url: str
    licence: str
    size_mb: int  # of the tensors in float32; the authors publish no digests
    training: str  # what differs between files of one space
    download: str = "by any program"


_OFA = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets"
_DRIVE = "https://drive.google.com/file/d"
_BROWSER = "in a browser"

PUBLISHED = (
    Published("ofa-mbv3-w1.0", f"{_OFA}/ofa_mbv3_d234_e346_k357_w1.0", "MIT", 31, "progressive shrinking"),
    Published("ofa-mbv3-w1.2", f"{_OFA}/ofa_mbv3_d234_e346_k357_w1.2", "MIT", 43, "progressive shrinking"),
    Published(
        "ofa-proxyless-w1.3", f"{_OFA}/ofa_proxyless_d234_e346_k357_w1.3", "MIT", 32, "progressive shrinking"
    ),
    Published(
        "attentivenas",
        f"{_DRIVE}/1cCla-OQNIAn-rjsY2b832DuP59ZKr8uh/view",
        "CC-BY-NC-4.0",
        98,
        "attentive sampling",
        _BROWSER,
    ),
    Published(
        "alphanet",
        f"{_DRIVE}/1CyZoPyiCoGJ0qv8bqi7s7TQRUum_8FeG/view",
        "CC-BY-NC-4.0",
        98,
        "alpha-divergence",
        _BROWSER,
    ),
)
