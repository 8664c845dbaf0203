"""Flags that cannot be meant end the command before anything else happens."""

import pytest

from sweep.cli.main import main, parser


def refusal(arguments, capsys):
    """The last line of what a command says that ends with exit code 2."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--limit", value) for value in ("0", "-1", "1e3", "²", "١", "1_000", "", 20 * "9", 5000 * "9")),
        *(("--max-concurrent", value) for value in ("0", "1.5", "٣")),
        *(("--grace", value) for value in ("nan", "inf", "1e999", "", "1_0", "١", "0x10")),
        ("--gpus-per-trial", ""),
    ],
)
def test_a_number_that_cannot_be(flag, value, capsys):
    assert f"argument {flag}: {value!r} is not a " in refusal(["plan", "grid.yaml", f"{flag}={value}"], capsys)


@pytest.mark.parametrize("flag", ["--out", "--profile", "--data-dir", "--address"])
def test_a_variable_that_a_script_left_empty(flag, capsys):
    assert f"argument {flag}: it is empty" in refusal(["run", "grid.yaml", flag, ""], capsys)


@pytest.mark.parametrize("command", ["report", "status", "compact"])
def test_a_study_that_a_script_left_empty(command, capsys):
    assert "argument study: it is empty" in refusal([command, ""], capsys)


def test_values_that_can_be():
    options = parser().parse_args(["run", "g.yaml", "--limit", "1000", "--grace", "1e3", "--gpus-per-trial", "pack"])
    assert (options.limit, options.grace_s, options.gpus_per_trial) == (1000, 1000.0, "pack")
