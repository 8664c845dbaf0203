"""Files that are no grid: one sentence each, and nothing of them runs."""

import os
from pathlib import Path

import pytest
import yaml

from sweep.errors import UserError
from sweep.grid.spec import load_spec


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "must be a mapping with keys study, paper_table, reference_patches, baselines, cases, space, budget, "
              "infeasible, seeds, objectives, search, early_stop, constraints, pool, profiles, but is empty"),
        (b"- 1\n", "must be a mapping with keys study"),
        (b"study: x\ncases: [a, b\nprofiles: {}\n", "line 3, column 9 does not parse as YAML"),
        (b"study: *nothing\n", "line 1, column 8 does not parse as YAML: found undefined alias 'nothing'"),
        (b"study: x\n---\nstudy: y\n", "line 2, column 1 does not parse as YAML: expected a single document"),
        (b"? [1]\n: 2\n", "line 1, column 3 does not parse as YAML"),
        (b"study: !mine 3\n", "line 1, column 8 has a tag (!mine), and a grid holds only plain text"),
        (b"seeds: [!!int '']\n", "line 1, column 9 has a tag (int)"),
        (b"study: !!timestamp x\n", "line 1, column 8 has a tag (timestamp)"),
        (b"study: !!bool x\n", "line 1, column 8 has a tag (bool)"),
        (b"study: !!null x\n", "line 1, column 8 has a tag (null)"),
        (b"%TAG ! tag:yaml.org,2002:\n---\nstudy: !set {a}\n", "line 3, column 8 has a tag (set)"),
        (b"seeds: 0x" + b"f" * 5000, "line 1, column 8 is a number of 5002 digits, and 100 are the most"),
        (b'study: "\\ud800"', "line 1, column 8 holds a character that is not text"),
        (b'study: "a\\0"', "line 1, column 8 holds a character that is not text"),
        (b'study: "\\Uffffffff"', "it is not YAML"),
        (b"cases: &a [*a]", "line 1, column 8 holds itself, by an alias"),
        (b"cases: [&a {<<: &b {<<: *a}}]", "line 1, column 9 holds itself, by an alias"),
        (b"# " + b"x" * 2**20, "it has more than 1048576 bytes"),
        (b"[" * 5000, "its mappings and lists are nested too deeply"),
        (b"study: \x00\x01", "it is not YAML: unacceptable character"),
        (b"\x89PNG\r\n\x1a\n\xff", "it is not text in UTF-8"),
    ],
)  # fmt: skip
def test_files_that_are_no_grid_get_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_spec(path)
    (problem,) = error.value.problems
    assert problem.where == str(path)
    assert problem.sentence.startswith(sentence)
    assert "\n" not in str(problem)


def test_a_grid_that_asks_for_python_objects_runs_nothing(tmp_path):
    trace = tmp_path / "trace"
    path = tmp_path / "grid.yaml"
    path.write_text(f"study: !!python/object/apply:os.mkdir ['{trace}']\n")
    with pytest.raises(UserError, match=r"has a tag \(python/object/apply:os.mkdir\)"):
        load_spec(path)
    assert not trace.exists()
    yaml.unsafe_load(path.read_text())
    assert trace.exists(), "the grid does ask for it"


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_spec(tmp_path / "grid.yaml")
    with pytest.raises(UserError, match="it is a folder; a grid is a file such as"):
        load_spec(tmp_path)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(UserError, match="cannot be read: Too many levels of symbolic links"):
        load_spec(tmp_path / "loop.yaml")


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "grid.yaml")
    for path in (tmp_path / "grid.yaml", Path("/dev/zero")):
        with pytest.raises(UserError, match="it is not a file"):
            load_spec(path)


@pytest.mark.parametrize(
    "line",
    [
        "a{}: &a{} [*a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}]",
        "a{}: &a{} {{<<: [*a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}]}}",
    ],
)
def test_a_few_aliases_that_stand_for_more_than_memory_holds(tmp_path, line):
    lines = ["a0: &a0 {strategy: upper}", *(line.format(i, i, *[i - 1] * 10) for i in range(1, 10)), "study: *a9"]
    (tmp_path / "grid.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="comes to more than 100000 values with its aliases"):
        load_spec(tmp_path / "grid.yaml")


def test_an_alias_for_what_profiles_share_is_a_value_like_others(tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "study: x\ncases: [{strategy: all, r: 1}]\n"
        "profiles: {a: &a {dataset: digits, epochs: 3}, b: {<<: *a, epochs: 4, lr: 1e-3}}\n"
    )
    profiles = load_spec(tmp_path / "grid.yaml").profiles
    assert [profile.train.epochs for profile in profiles.values()] == [3, 4]
    assert {profile.data.dataset for profile in profiles.values()} == {"digits"}
