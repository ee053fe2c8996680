"""The networks that once-for-all publishes ready-made, each tuned for one device; needs the package `ofa`."""

import json
import re
from pathlib import Path

import torch
from ofa.imagenet_classification.networks import get_net_by_name  # type: ignore[import-untyped]
from torch import nn

from encas.errors import InvalidInput
from encas.export.weights import load_state, read_state
from encas.preprocess import Preprocess

URL = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_specialized"
_FILES = ("net.config", "run.config", "init")


def from_ofa(name: str, weights: Path | None) -> tuple[nn.Module, Preprocess]:
    """Make a specialised network, downloaded once into torch's hub folder, or with the weights of a file.

    Raises:
        InvalidInput: There is no such network, it cannot be downloaded, or a file is not what it should be.
    """
    source = f"ofa:{name}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]*", name):
        raise InvalidInput(f"{source}: must be a name, as in pixel1_lat@143ms_top1@80.1_finetune@75")
    folder = _downloaded(name.replace("@", "-"), source)
    try:
        config = json.loads((folder / "net.config").read_text())
        size = int(json.loads((folder / "run.config").read_text())["image_size"])
        module: nn.Module = get_net_by_name(config["name"]).build_from_config(config)
    except Exception as error:  # whatever `ofa` makes of a file that is none
        raise InvalidInput(f"{folder}: is no network of once-for-all: {error!r}") from None
    file = weights or folder / "init"
    load_state(module, read_state(file), str(file))
    return module, Preprocess(size=(size, size), crop_pct=0.875, interpolation="bilinear")


def _downloaded(name: str, source: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "ofa" / name
    for file in _FILES:
        if (folder / file).is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(f"{URL}/{name}/{file}", str(folder / file), progress=False)
        except OSError as error:  # no connection, or no such network
            raise InvalidInput(
                f"{source}: cannot be had from {URL}/{name}: {error}; without a connection put "
                f"{', '.join(_FILES)} from there into {folder}"
            ) from None
    return folder
