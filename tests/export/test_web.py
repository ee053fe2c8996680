"""The single file outside of Python: in Node, and on its page in a real browser."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pillow = pytest.importorskip("PIL.Image")

from encas.bundle import Bundle  # noqa: E402
from encas.errors import InvalidInput  # noqa: E402
from encas.export import web, write_page, write_single_file  # noqa: E402
from encas.export.single_file import tensors_of  # noqa: E402
from encas.preprocess import Preprocess  # noqa: E402
from encas.runtime import decode, prepare  # noqa: E402

NODE, NPM = shutil.which("node"), shutil.which("npm")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = Path(web.__file__).with_name("page")
NEW_PILLOW = int(pillow.__version__.split(".")[0]) >= 13  # resizes tall images along columns first
PREPARE = """
import {prepare} from "%s/prepare.mjs";
import {readFileSync, writeFileSync} from "node:fs";
for (const {data, width, height, spec, out} of JSON.parse(readFileSync("cases.json"))) {
  writeFileSync(out, new Uint8Array(prepare({data: readFileSync(data), width, height}, spec).buffer));
}
"""
REPLAY = """
import * as ort from "onnxruntime-web";
import {readFileSync} from "node:fs";
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create("cascade.onnx", {executionProviders: ["wasm"]});
const feeds = {};
for (const [name, dims] of Object.entries(JSON.parse(readFileSync("inputs.json")))) {
  const bytes = new Uint8Array(readFileSync(name + ".bin"));
  feeds[name] = new ort.Tensor("float32", new Float32Array(bytes.buffer), dims);
}
const found = await session.run(feeds);
const plain = {};
for (const [name, {data}] of Object.entries(found)) plain[name] = Array.from(data, Number);
console.log(JSON.stringify(plain));
"""


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="no Node.js is installed")
def test_a_browser_prepares_images_to_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases, expected = [], []
    modes: Any = ("center", "squash", "border")
    filters: Any = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
    for number in range(72):
        height = int(rng.integers(1, 60))
        width = int(rng.integers(max(1, height // 2 if NEW_PILLOW else height), 2 * height + 1))
        channels: Any = 1 if number % 4 == 0 else 3
        size = tuple(rng.integers(1, 40, 2).tolist()) if number % 2 else (int(rng.integers(1, 40)),) * 2
        spec = Preprocess(
            channels=channels,
            size=size,
            interpolation=filters[number % 6],
            crop_mode=modes[number // 6 % 3],
            crop_pct=(1.0, 0.875)[number % 2],
            mean=(0.485, 0.456, 0.406)[:channels],
            std=(0.229, 0.224, 0.225)[:channels],
        )
        pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
        pixels[0] = pixels[0] // 128 * 255
        (tmp_path / f"{number}.rgba").write_bytes(pixels.tobytes())
        case = {"data": f"{number}.rgba", "width": width, "height": height, "out": f"{number}.out"}
        cases.append(case | {"spec": spec.model_dump(mode="json")})
        expected.append(prepare(pillow.fromarray(pixels[..., :3]), spec))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "run.mjs").write_text(PREPARE % PAGE)
    subprocess.run([str(NODE), "run.mjs"], cwd=tmp_path, check=True)
    for case, tensor in zip(cases, expected, strict=True):
        found = np.fromfile(tmp_path / str(case["out"]), np.float32).reshape(tensor.shape)
        assert np.array_equal(found, tensor), case


@pytest.mark.slow
@pytest.mark.skipif(NODE is None or NPM is None, reason="no Node.js is installed")
def test_onnxruntime_web_decides_as_the_golden_samples(golden_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    single = write_single_file(golden_bundle, folder / "cascade.onnx")
    install = [str(NPM), "install", "--silent", "--ignore-scripts", "--prefix", str(folder), web.RUNTIME]
    if subprocess.run(install, cwd=folder, check=False).returncode != 0:
        pytest.skip("npm cannot get onnxruntime-web")
    golden = golden_bundle.file.golden
    tensors = tensors_of(single, [decode(golden_bundle.path / sample.file) for sample in golden])
    for name, tensor in tensors.items():
        tensor.tofile(folder / f"{name}.bin")
    (folder / "inputs.json").write_text(json.dumps({name: list(t.shape) for name, t in tensors.items()}))
    (folder / "replay.mjs").write_text(REPLAY)
    done = subprocess.run([str(NODE), "replay.mjs"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    probs = np.array(found["probs"]).reshape(len(golden), -1)
    assert len(golden) == 8 and len(tensors) == 2
    assert found["exit_stage"] == [sample.exit_stage for sample in golden]
    assert probs.argmax(axis=1).tolist() == [sample.label for sample in golden]
    assert probs.max(axis=1) == pytest.approx([sample.confidence for sample in golden], abs=1e-5)
    spent = np.cumsum([member.macs for member in golden_bundle.stage_members])
    assert found["macs"] == spent[found["exit_stage"]].tolist()


@pytest.fixture
def page_folder(golden_bundle: Bundle, tmp_path: Path) -> Path:
    if NPM is None:
        pytest.skip("no Node.js is installed")
    return write_page(golden_bundle, tmp_path / "page").parent


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def address(page_folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(page_folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The page, ready; complaints and questions to other hosts fail the test."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 1000, "height": 760})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url)
                if not request.url.startswith((address, "blob:", "data:"))
                else None
            ),
        )
        page.goto(address)
        page.wait_for_function("document.getElementById('said').textContent.startsWith('Ready')")
        yield page
        browser.close()
    assert complaints == []


def answered(page: Any) -> dict[str, Any]:
    page.wait_for_selector("#said[data-answer]")
    found: dict[str, Any] = json.loads(page.get_attribute("#said", "data-answer"))
    return found


@pytest.mark.slow
def test_the_page_answers_its_samples_as_the_bundle_does(page: Any, golden_bundle: Bundle) -> None:
    spent = np.cumsum([member.macs for member in golden_bundle.stage_members])
    for number, sample in enumerate(golden_bundle.file.golden):
        page.evaluate("delete document.getElementById('said').dataset.answer")
        page.locator("#samples button").nth(number).click()
        found = answered(page)
        assert (found["label"], found["exit_stage"]) == (sample.label, sample.exit_stage)
        assert found["best"][0]["probability"] == pytest.approx(sample.confidence, abs=1e-5)
        assert found["macs"] == spent[sample.exit_stage]
        assert found["saved"] == pytest.approx(1 - spent[sample.exit_stage] / spent[-1])
        assert page.locator("#stages li.ran").count() == sample.exit_stage + 1
        text = page.text_content("#said")
        assert golden_bundle.labels[sample.label] in text
        assert ("was saved" if sample.exit_stage < 2 else "nothing was saved") in text
        bars = page.eval_on_selector_all("#best .bar", "bars => bars.map(bar => bar.clientWidth)")
        assert bars == sorted(bars, reverse=True) and bars[0] > 2 * bars[-1]


@pytest.mark.slow
def test_an_image_that_is_dropped_is_answered_and_what_is_none_is_said(
    page: Any, golden_bundle: Bundle, tmp_path: Path
) -> None:
    sample = golden_bundle.file.golden[-1]
    page.set_input_files("#file", golden_bundle.path / sample.file)
    assert answered(page)["label"] == sample.label
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "mine.png", {type: "image/png"}));
            return transfer;
        }""",
        list((golden_bundle.path / golden_bundle.file.golden[0].file).read_bytes()),
    )
    page.evaluate("delete document.getElementById('said').dataset.answer")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    assert answered(page)["label"] == golden_bundle.file.golden[0].label
    (tmp_path / "notes.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.wait_for_function(
        "document.getElementById('said').textContent.includes('notes.png cannot be answered')"
    )


def test_without_npm_one_line_says_what_is_needed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InvalidInput, match=r"npm: is not installed, and the page needs onnxruntime-web@1\.30\.0"
    ):
        write_page(bundle, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_what_npm_says_when_it_fails_is_told(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/npm").write_text("#!/bin/sh\necho 'no such host' >&2\nexit 1\n")
    (tmp_path / "bin/npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    with pytest.raises(InvalidInput, match=r"npm: cannot get onnxruntime-web@1\.30\.0: no such host"):
        write_page(bundle, tmp_path / "page")


def test_a_page_is_replaced_and_anything_else_stays(bundle: Bundle, tmp_path: Path) -> None:
    def fetch(folder: Path) -> Path:
        (folder / "dist").mkdir()
        for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
            (folder / "dist" / name).write_text("runtime")
        return folder

    for _ in range(2):
        assert write_page(bundle, tmp_path / "page", fetch=fetch) == tmp_path / "page/index.html"
    names = {
        p.relative_to(tmp_path / "page").as_posix() for p in (tmp_path / "page").rglob("*") if p.is_file()
    }
    static = {path.name for path in PAGE.iterdir()}
    assert names == static | {"cascade.onnx", "model.json"} | {
        f"ort/{name}" for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
    }
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/main.tex").touch()
    with pytest.raises(InvalidInput, match="thesis: exists and is no page of a cascade; name another folder"):
        write_page(bundle, tmp_path / "thesis", fetch=fetch)
    with pytest.raises(InvalidInput, match=r"its networks take .* GiB, and a browser loads at most"):
        write_page(bundle, tmp_path / "other", fetch=fetch, most_bytes=1000)
