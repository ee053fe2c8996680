"""A static page that runs a bundle in its visitors' browsers: the single file, and ONNX Runtime beside it."""

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.export import graph
from encas.export.single_file import NAME, SingleFile, write_single_file
from encas.files import replaced_folder, write_bytes

RUNTIME = "onnxruntime-web@1.30.0"
_RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_PAGE = Path(__file__).with_name("page")
_FORMAT = "encas-page/1"


def write_page(
    bundle: Bundle,
    out: Path,
    *,
    fetch: Callable[[Path], Path] | None = None,
    most_bytes: int = graph.MOST_BYTES,
) -> Path:
    """Write a folder that any web server can serve as it is, and that asks nobody else for anything.

    Args:
        bundle: Its golden samples become those of the page.
        out: A page that is there is replaced, anything else is left alone.
        fetch: Puts the package `RUNTIME` into a folder and returns where it is; by default by npm.
        most_bytes: Of weights that a browser loads.

    Returns:
        `index.html`.

    Raises:
        InvalidInput: `out` is something else, npm is not there, or the networks are too large for a browser.
        NotTheSame: See `write_single_file`.
    """
    _check_may_go(out)
    n_bytes = sum((bundle.path / member.file).stat().st_size for member in bundle.stage_members)
    if n_bytes > most_bytes:
        raise InvalidInput(
            f"{bundle.path}: its networks take {n_bytes / 2**30:.3g} GiB, and a browser loads at most "
            f"{most_bytes / 2**30:.3g}; choose a cascade of smaller ones"
        )
    with replaced_folder(out) as folder:
        single = write_single_file(bundle, folder / NAME)
        for file in sorted(_PAGE.iterdir()):
            shutil.copyfile(file, folder / file.name)
        for sample in bundle.file.golden:
            write_bytes(folder / sample.file, (bundle.path / sample.file).read_bytes())
        with tempfile.TemporaryDirectory() as temporary:
            package = (fetch or fetch_runtime)(Path(temporary))
            (folder / "ort").mkdir()
            for name in _RUNTIME_FILES:
                shutil.copyfile(package / "dist" / name, folder / "ort" / name)
        write_bytes(folder / "model.json", json.dumps(_description(bundle, single), indent=2).encode())
    return out / "index.html"


def fetch_runtime(folder: Path) -> Path:
    """Unpack the npm package of ONNX Runtime for the web into a folder; nothing of it is run.

    Raises:
        InvalidInput: npm is not there, or cannot get it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InvalidInput(
            f"npm: is not installed, and the page needs {RUNTIME}, which it fetches; install Node.js, here "
            "or on a machine to which you copy the bundle"
        )
    done = subprocess.run(
        [npm, "pack", RUNTIME, "--silent", "--pack-destination", str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    archive = next(folder.glob("*.tgz"), None)
    if done.returncode != 0 or archive is None:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
        raise InvalidInput(f"npm: cannot get {RUNTIME}: {reason}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / "package"


def _description(bundle: Bundle, single: SingleFile) -> dict[str, Any]:
    """Say what the page needs to know."""
    return {
        "format": _FORMAT,
        "name": bundle.name,
        "labels": bundle.labels,
        "inputs": {name: spec.model_dump(mode="json") for name, spec in single.inputs.items()},
        "stages": [
            {"member": stage.member, "threshold": stage.threshold, "macs": member.macs}
            for stage, member in zip(bundle.cascade.stages, bundle.stage_members, strict=True)
        ],
        "samples": [sample.model_dump(mode="json") for sample in bundle.file.golden],
    }


def _check_may_go(out: Path) -> None:
    """Check that nothing but a page of ours would be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        is_ours = json.loads((out / "model.json").read_text())["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise InvalidInput(f"{out}: exists and is no page of a cascade; name another folder")
