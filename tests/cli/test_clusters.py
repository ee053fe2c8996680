import pytest

from encas.cli.clusters import with_address


@pytest.mark.parametrize(
    "address", ["auto", "10.0.0.1:6379", "head.local:6379", "[fe80::1]:6379", "ray://head:1"]
)
def test_an_address_after_the_option_is_its_own(address: str) -> None:
    assert with_address(["pool", "--ray", address, "--json"]) == ["pool", "--ray", address, "--json"]


def test_alone_it_means_the_cluster_that_is_found() -> None:
    assert with_address(["--ray", "--split", "val"]) == ["--ray", "auto", "--split", "val"]
    assert with_address(["--ray", "pool"]) == ["--ray", "auto", "pool"], "a folder is no address"
    assert with_address(["pool", "--ray"]) == ["pool", "--ray", "auto"]


def test_other_arguments_stay() -> None:
    for args in (["--ray=10.0.0.1:6379"], ["--ray-cores", "2"], []):
        assert with_address(args) == args
