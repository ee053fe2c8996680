import os
from pathlib import Path

import pytest

from encas.errors import InvalidInput
from encas.storage import Copy, is_url, kept

pytest.importorskip("fsspec")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder that stands for a store: `file://` is one of fsspec's."""
    folder = tmp_path / "store/pool"
    (folder / "val").mkdir(parents=True)
    (folder / "pool.json").write_text("{}")
    (folder / "val/a.npy").write_bytes(b"a")
    return folder


def copy_of(store: Path, cache: str = "cache") -> Copy:
    return Copy.of(f"file://{store}", store.parents[1] / cache)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_copy_lies_below_the_cache_under_its_own_name(store: Path) -> None:
    copy = copy_of(store)
    copy.pull()
    assert copy.path == store.parents[1] / "cache/file" / str(store).strip("/")
    assert files(copy.path) == files(store)


def test_only_what_has_changed_is_copied_again(store: Path) -> None:
    copy = copy_of(store)
    copy.pull()
    assert copy.push() == 0
    before = (copy.path / "pool.json").stat().st_mtime_ns
    (store / "val/a.npy").write_bytes(b"new")
    copy.pull()
    assert (copy.path / "val/a.npy").read_bytes() == b"new"
    assert (copy.path / "pool.json").stat().st_mtime_ns == before
    (copy.path / "val/b.npy").write_bytes(b"b")
    assert copy.push() == 1 and (store / "val/b.npy").read_bytes() == b"b"


def test_what_has_gone_from_the_store_goes_and_what_was_not_brought_back_stays(store: Path) -> None:
    copy = copy_of(store)
    copy.pull()
    (store / "val/a.npy").unlink()
    (copy.path / "val/b.npy").write_bytes(b"b")
    (copy.path / "pool.json").write_text('{"mine": 1}')
    copy.pull()
    assert files(copy.path) == {"pool.json": b'{"mine": 1}', "val/b.npy": b"b"}


def test_unfinished_files_are_not_brought_back(store: Path) -> None:
    copy = copy_of(store)
    copy.pull()
    (copy.path / f".pool.json.{os.getpid()}.tmp").write_text("half")
    assert copy.push() == 0


def test_a_description_that_somebody_else_has_written_is_not_overwritten(store: Path) -> None:
    first, second = copy_of(store), copy_of(store, "other")
    for copy, text in ((first, '{"first": 1}'), (second, '{"second": 22}')):
        copy.pull()
        (copy.path / "pool.json").write_text(text)
    second.push()
    with pytest.raises(InvalidInput, match=r"pool/pool\.json: was written by somebody else meanwhile"):
        first.push()
    first.pull()
    assert (first.path / "pool.json").read_text() == '{"second": 22}'


def test_a_single_file_is_a_store_too(store: Path) -> None:
    copy = copy_of(store / "pool.json")
    copy.pull()
    assert copy.path.read_text() == "{}" and copy.push() == 0


def test_what_changes_is_brought_back_at_the_end_also_of_what_failed(store: Path) -> None:
    def fail() -> None:
        with kept(copy_of(store)) as path:
            (path / "val/b.npy").write_bytes(b"b")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert (store / "val/b.npy").read_bytes() == b"b"


def test_a_folder_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    with kept(Copy.of(f"file://{tmp_path}/store/new", tmp_path / "cache")) as path:
        assert not path.exists()
        path.mkdir(parents=True)
        (path / "pool.json").write_text("{}")
    assert files(tmp_path / "store/new") == {"pool.json": b"{}"}


def test_a_store_that_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(InvalidInput, match=rf"^file://{tmp_path}/file/pool: .*\S$"),
        kept(Copy.of(f"file://{tmp_path}/file/pool", tmp_path / "cache")) as path,
    ):
        path.mkdir(parents=True)
        (path / "a").write_text("a")
    with pytest.raises(InvalidInput, match=r"^nowhere://pool: Protocol not known: nowhere"):
        Copy.of("nowhere://pool", tmp_path)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    copy = Copy.of("memory://pool", tmp_path / "cache")
    copy.system.store.clear()
    copy.system.pipe_file("/pool/pool.json", b"{}")
    copy.system.store["/pool/a/../../../evil"] = copy.system.store["/pool/pool.json"]
    with pytest.raises(InvalidInput, match=r"memory://pool/a/\.\./\.\./\.\./evil: is a name that no folder"):
        copy.pull()
    assert not list(tmp_path.rglob("evil"))
    copy.system.store.clear()


def test_addresses_of_servers_and_sources_of_members_are_no_stores() -> None:
    texts = (
        "http://localhost:8000",
        "https://a/b",
        "grpc://a:1",
        "ray://a:1",
        "timm:resnet18",
        "pool",
        "10.0.0.1:6379",
        "s3://",
    )
    assert not any(map(is_url, texts))
    assert all(map(is_url, ("s3://bucket/pool", "gs://bucket", "file:///shared/pool")))
