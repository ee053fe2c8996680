import io
import re
import sys

import pytest

from encas.cli.output import print_table, print_times, progress, seconds_text
from encas.measurement import BatchTiming, Machine, Measurements, Timing


def test_a_table_fits_80_columns_and_cuts_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "MMACs", "accuracy"), [("a" * 120, "12.5", "87.19 %"), ("b", "125.5", "93.39 %")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert max(len(line) for line in lines) <= 80
    assert lines[2].startswith("aaa") and "…" in lines[2] and lines[2].endswith("87.19 %")


def test_of_files_the_end_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("file", "label"), [("folder/" * 20 + "one.png", "cat")], files=True)
    line = capsys.readouterr().out.splitlines()[-1]
    assert len(line) <= 80
    assert line.startswith("…") and line.endswith("folder/one.png    cat")


def test_progress_without_a_terminal_prints_the_last_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("recording", 3) as advance:
        for _ in range(3):
            advance(1, "resnet20")
    assert capsys.readouterr().err == "recording: 3/3 resnet20\n"


def test_progress_says_how_long_the_rest_takes_by_what_was_done_since_it_began(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 1.0, 21.0])
    monkeypatch.setattr("encas.cli.output.time.monotonic", lambda: next(seconds))
    with progress("recording", 100) as advance:
        advance(70, "resnet20")  # by an earlier run
        advance(10, "resnet32")
    assert capsys.readouterr().err == "recording: 80/100 resnet32, 0:40 left\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.31e-7, "0.831 us"),
        (8.314e-5, "83.1 us"),
        (9.996e-4, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (12.34, "12.3 s"),
        (1234, "1234 s"),
    ],
)
def test_times_have_three_digits_and_a_fitting_unit(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_machine_that_is_not_quiet_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(name="desk", cpu="desk", cores=1, onnxruntime="1")
    quiet, noisy = (
        BatchTiming(batch=1, latency_s=Timing(median=1e-5, p95=2e-5, n=5, noise=noise))
        for noise in (0.1, 0.5)
    )
    print_times([Measurements(machine=machine, provider="cpu", members={"a": (quiet,)})])
    assert capsys.readouterr().err == ""
    print_times([Measurements(machine=machine, provider="cpu", members={"a": (quiet,), "b": (noisy,)})])
    captured = capsys.readouterr()
    assert "10 us" in captured.out
    assert captured.err.startswith(
        "measuring: the machine was not quiet: medians moved by up to 50 % (b, batch 1)"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_80_columns_the_bar_cuts_only_the_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("COLUMNS", "80"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    with progress("iteration 3: training", 3744) as advance:
        advance(3000, "largest 0.88, 75.9 %; smallest 1.18, 63.0 %; 3 skipped")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", plain) if "3000/3744" in line]
    assert lines and max(len(line) for line in lines) <= 80
    assert re.search(r"3000/3744 +(--:--|\d\d:\d\d) largest 0.88, 75.9 %; ", lines[-1]) and "…" in lines[-1]
