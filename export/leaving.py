"""Ways to leave: a bundle as what Ray Serve, KServe or Triton take. The executor answers in all of them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from re import sub

import yaml

import encas
from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.files import replaced_folder, write_bytes

_TEMPLATES = Path(__file__).with_name("templates")
_BATCH = 32  # samples that are answered together
_PORT = 8080  # where KServe expects a container to listen


def write_ray_serve(bundle: Bundle, out: Path) -> Path:
    """Write an application for `serve run app:app`, which takes encoded images and answers JSON.

    Returns:
        `app.py`.

    Raises:
        InvalidInput: `out` is something else.
    """
    files = ("app.py", "requirements.txt")
    with _own_folder(out, files) as folder:
        copy_bundle(bundle, folder / "bundle")
        _write(folder / "app.py", "ray_app.py", name=bundle.name, batch=str(_BATCH))
        write_bytes(folder / "requirements.txt", b"encas[cpu]\nray[serve]>=2.40\n")
    return out / "app.py"


def write_kserve(bundle: Bundle, out: Path) -> Path:
    """Write an `InferenceService` that runs `encas serve`, and the recipe of its image.

    Returns:
        `inferenceservice.yaml`.

    Raises:
        InvalidInput: `out` is something else.
    """
    with _own_folder(out, ("inferenceservice.yaml", "Dockerfile")) as folder:
        copy_bundle(bundle, folder / "bundle")
        _write(folder / "Dockerfile", "Dockerfile", port=str(_PORT), version=encas.__version__)
        text = yaml.safe_dump(_inference_service(bundle), sort_keys=False)
        write_bytes(folder / "inferenceservice.yaml", text.encode())
    return out / "inferenceservice.yaml"


def write_triton(bundle: Bundle, out: Path) -> Path:
    """Write a model into a Triton model repository, for its Python backend; other models there stay.

    Returns:
        The model's `config.pbtxt`.

    Raises:
        InvalidInput: Another model of this name is there.
    """
    model = out / bundle.name
    version = bundle.file.version if bundle.file.version.isdecimal() and int(bundle.file.version) else "1"
    if model.exists() and not any(model.glob("*/bundle/bundle.json")):
        raise InvalidInput(f"{model}: is there, and no model that encas wrote; name another repository")
    with replaced_folder(model) as folder:
        copy_bundle(bundle, folder / version / "bundle")
        _write(folder / version / "model.py", "triton_model.py", name=bundle.name)
        fields = {"name": bundle.name, "batch": str(_BATCH), "classes": str(len(bundle.labels))}
        _write(folder / "config.pbtxt", "config.pbtxt", **fields)
    return model / "config.pbtxt"


def copy_bundle(bundle: Bundle, out: Path) -> None:
    """Copy the files of a bundle, and nothing else that lies beside them."""
    for name in ("bundle.json", *bundle.file.files):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, out / name)


def kubernetes_name(name: str) -> str:
    """Make a name that Kubernetes takes for a service: small letters, digits and hyphens, at most 40."""
    plain = sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:38].strip("-") or "cascade"
    return plain if plain[0].isalpha() else f"m-{plain}"


def _inference_service(bundle: Bundle) -> dict[str, object]:
    name = kubernetes_name(bundle.name)
    tag = sub(r"[^A-Za-z0-9_.-]", "-", bundle.file.version)
    container = {
        "name": "kserve-container",
        "image": f"{name}:{tag}",
        "ports": [{"containerPort": _PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": _PORT}},
        "livenessProbe": {"httpGet": {"path": "/v2/health/live", "port": _PORT}},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"containers": [container]}},
    }


def _write(path: Path, template: str, **fields: str) -> None:
    """Write a template with its fields, as `@batch@`, filled in."""
    text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    write_bytes(path, text.encode())


@contextmanager
def _own_folder(out: Path, files: tuple[str, ...]) -> Iterator[Path]:
    """Yield a folder that takes the place of `out`, if nothing but what we wrote is there.

    Raises:
        InvalidInput: Something else is there.
    """
    if out.exists():
        found = {path.name for path in out.iterdir()} if out.is_dir() else {""}
        if found and found != {"bundle", *files}:
            raise InvalidInput(f"{out}: exists and is nothing that encas wrote; name another folder")
    with replaced_folder(out) as folder:
        yield folder
