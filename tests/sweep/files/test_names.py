"""Names that may become files and folders of a study."""

import pytest

from sweep.files.names import is_safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [("vim_nano-none-seed0-0469ab93f7", True), ("a.b", True), ("-", True), ("", False), (".a", False), ("..", False),
     ("a/b", False), ("a\0", False), ("a\n", False), ("é", False), (None, False), (1, False)],
)  # fmt: skip
def test_safe_names(name, safe):
    assert is_safe_name(name) is safe
