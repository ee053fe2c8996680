from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from encas.runtime.doctor import Extra, Package, Provider, examine, find_clashes, find_extras

REQUIREMENTS = [
    "numpy>=1.26",
    'onnxruntime-gpu>=1.28; extra == "gpu"',
    'torch>=2.6; extra == "export"',
    'tritonclient[http]>=2.50; python_version > "3.8" and extra == "serve"',
    'pillow; extra == "export"',
    'encas[cpu,search]; extra == "demo"',
    'pytest>=8; extra == "dev"',
]
CUDA_FAILS = Provider(name="cuda", works=False, why="libcudnn.so.9: no such file")


def versions(**installed: str) -> dict[str, str]:
    return {name.replace("_", "-"): version for name, version in installed.items()}


def clashes(installed: dict[str, str], *devices: str, provider: Provider = CUDA_FAILS) -> list[str]:
    def find(name: str) -> str | None:
        return installed.get(name)

    return find_clashes(find_extras(REQUIREMENTS, find), find, [provider], devices)


def test_extras_are_read_from_the_requirements() -> None:
    found = find_extras(REQUIREMENTS, lambda name: "2.0" if name == "numpy" else None)
    assert found == (
        Extra(name="base", packages=(Package(name="numpy", minimum="1.26", version="2.0"),)),
        Extra(name="gpu", packages=(Package(name="onnxruntime-gpu", minimum="1.28"),)),
        Extra(name="export", packages=(Package(name="torch", minimum="2.6"), Package(name="pillow"))),
        Extra(name="serve", packages=(Package(name="tritonclient", minimum="2.50"),)),
    )
    assert found[2].missing == ("torch", "pillow")
    assert found[2].install == "pip install 'encas[export]'"


@pytest.mark.parametrize(
    ("version", "is_too_old"),
    [
        ("1.25.9", True),
        ("1.26", False),
        ("1.26.0", False),
        ("1.3", True),
        ("2.0rc1", False),
        ("1.26+x", False),
    ],
)
def test_versions_are_compared_by_number(version: str, is_too_old: bool) -> None:
    assert Package(name="numpy", minimum="1.26", version=version).is_too_old is is_too_old


def test_an_old_package_clashes_and_the_line_says_what_to_do() -> None:
    (line,) = clashes(versions(numpy="1.24.4"))
    assert line.startswith("numpy 1.24.4 is too old") and "pip install --upgrade 'numpy>=1.26'" in line


def test_two_builds_of_onnx_runtime_clash() -> None:
    (line,) = clashes(versions(numpy="2.0", onnxruntime="1.32.0", onnxruntime_gpu="1.32.0"))
    assert "overwrite each other" in line


def test_torch_for_the_cpu_beside_a_gpu_runtime_clashes() -> None:
    (line,) = clashes(versions(numpy="2.0", onnxruntime_gpu="1.32.0", torch="2.14.1+cpu"))
    assert "torch 2.14.1+cpu is built for the CPU only" in line
    assert clashes(versions(numpy="2.0", onnxruntime="1.32.0", torch="2.14.1+cpu")) == []
    assert clashes(versions(numpy="2.0", onnxruntime_gpu="1.32.0", torch="2.14.1+cu130")) == []


def test_a_gpu_runtime_that_fails_on_a_device_that_is_here_clashes() -> None:
    gpu = versions(numpy="2.0", onnxruntime_gpu="1.32.0")
    (line,) = clashes(gpu, "NVIDIA H200")
    assert "does not work on the NVIDIA H200 that is here: libcudnn.so.9" in line
    assert clashes(gpu) == []
    assert clashes(gpu, "NVIDIA H200", provider=Provider(name="cuda", works=True)) == []


def test_what_is_not_installed_is_no_clash() -> None:
    assert clashes(versions(numpy="2.0")) == []


def test_one_build_of_onnx_runtime_is_advised_and_none_where_there_is_one(tmp_path: Path) -> None:
    def advice(*devices: str, **installed: str) -> list[str]:
        report = examine(tmp_path, lambda name: versions(**installed).get(name)).model_copy(
            update={"cuda_devices": devices}
        )
        return [extra.name for extra in report.to_install()]

    assert advice() == ["base", "search", "export", "nat", "cpu", "fast", "serve", "ray", "store", "demo"]
    assert "gpu" in advice("NVIDIA H200") and "cpu" not in advice("NVIDIA H200")
    with_cpu = advice(onnxruntime="1.32.0", pillow="13.0.0", simplejpeg="1.9.0", psutil="7.2.2")
    assert "cpu" not in with_cpu and "gpu" not in with_cpu


def test_this_installation(tmp_path: Path) -> None:
    report = examine(tmp_path)
    by_name = {extra.name: extra for extra in report.extras}
    assert {"base", "search", "export", "cpu", "gpu", "serve", "demo"} <= set(by_name)
    assert "dev" not in by_name
    assert by_name["base"].missing == ()
    assert report.cores >= 1 and report.disk_free_bytes > 0
    assert {provider.name: provider.works for provider in report.providers}["cpu"]
