"""What `import sweep` offers: its public names, each of which can be imported."""

import pytest

import sweep


def test_the_package_offers_its_public_names_only():
    assert dir(sweep) == sorted(sweep.__all__)
    assert all(callable(getattr(sweep, name)) for name in sweep.__all__)
    with pytest.raises(AttributeError, match="module 'sweep' has no attribute 'load'"):
        sweep.load  # noqa: B018
