"""Files that are no grid: one sentence each, and nothing of them runs."""

import pytest
import yaml

from sweep.errors import UserError
from sweep.spec import load_spec


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "must be a mapping with keys study, paper_table, baselines, cases, space, budget, seeds, objectives, "
              "search, early_stop, constraints, pool, profiles, and is empty"),
        (b"- 1\n", "must be a mapping with keys study"),
        (b"study: x\ncases: [a, b\nprofiles: {}\n", "line 3, column 9 does not parse as YAML"),
        (b"study: *nothing\n", "line 1, column 8 does not parse as YAML: found undefined alias 'nothing'"),
        (b"study: x\n---\nstudy: y\n", "line 2, column 1 does not parse as YAML: expected a single document"),
        (b"? [1]\n: 2\n", "line 1, column 3 does not parse as YAML"),
        (b"study: !mine 3\n", "line 1, column 8 asks for an object (!mine)"),
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
    with pytest.raises(UserError, match=r"asks for an object \(python/object/apply:os.mkdir\)"):
        load_spec(path)
    assert not trace.exists()
    yaml.unsafe_load(path.read_text())
    assert trace.exists(), "the grid does ask for it"


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_spec(tmp_path / "grid.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)
