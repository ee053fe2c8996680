import pickle
from pathlib import Path
from typing import Any

import pytest

from encas.errors import InvalidInput

torch = pytest.importorskip("torch")
from encas.export.weights import load_state, n_classes_of, read_state  # noqa: E402


def layers() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def test_safetensors_and_saved_state_dicts_give_the_same(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = layers().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "c.pth")
    for name in ("w.safetensors", "w.pth", "c.pth"):
        found = read_state(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Code()}, tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    for name in ("w.pth", "plain.pth"):
        with pytest.raises(InvalidInput, match="save the state_dict alone"):
            read_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_say_so(tmp_path: Path) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(InvalidInput, match=name):
            read_state(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InvalidInput, match="must hold a state_dict of named tensors, holds list"):
        read_state(tmp_path / "list.pth")


def test_tensors_of_other_names_are_matched_by_their_order() -> None:
    state = layers().state_dict()
    renamed = {
        f"block.{j}.{key.rpartition('.')[2]}": value + 1 for j, (key, value) in enumerate(state.items())
    }
    module = layers()
    load_state(module, renamed, "w.pth")
    assert torch.equal(module[0].weight, state["0.weight"] + 1)


def test_tensors_that_do_not_fit_are_named() -> None:
    state = layers().state_dict()
    with pytest.raises(
        InvalidInput, match=r"w.pth: '0.weight' has shape \(3, 5\), the network needs \(3, 2\)"
    ):
        load_state(layers(), {**state, "0.weight": torch.zeros(3, 5)}, "w.pth")
    fewer = {key: value for key, value in state.items() if key != "0.bias"}
    with pytest.raises(InvalidInput, match=r"w.pth: 6 tensors, the network has 7: 1 are missing \(0.bias\)"):
        load_state(layers(), fewer, "w.pth")
    swapped = {"x.bias": state["0.weight"], **{f"x{key}": state[key] for key in list(state)[1:]}}
    with pytest.raises(InvalidInput, match="are of another network"):
        load_state(layers(), swapped, "w.pth")


def test_the_last_tensor_tells_the_number_of_classes() -> None:
    assert n_classes_of(torch.nn.Linear(2, 3).state_dict()) == 3
    assert n_classes_of({}) is None
