"""Strategies, and the schedules that they resolve to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famba_core import ConfigError, FusionConfig, FusionSchedule, TokenGrid, token_schedule
from famba_core.fusion.schedule import (
    STRATEGIES,
    fusing_layers,
    layer_keys,
    most_removable,
    requested_schedule,
    resolve,
    spread,
    strategy,
    tokens_per_layer,
)


@pytest.mark.parametrize(("fusion", "schedule", "tokens"), [
    # tokens: 24 * 197, less each layer's r once for it and once for every layer after it
    (FusionConfig(), (0,) * 24, 4728),
    (FusionConfig(strategy="all", r=7), (7,) * 24, 4728 - 7 * 300),
    (FusionConfig(strategy="interleaved", r=14), (0, 14) * 12, 4728 - 14 * 144),
    (FusionConfig(strategy="lower", stop_layer=19, r=9), (9,) * 19 + (0,) * 5, 4728 - 9 * 285),
    (FusionConfig(strategy="upper", start_layer=6, r=9), (0,) * 5 + (9,) * 19, 4728 - 9 * 190),
    (FusionConfig(strategy="upper", start_layer=15, r=15), (0,) * 14 + (15,) * 10, 4728 - 15 * 55),
    (FusionConfig(strategy="upper", start_layer=6, r=1), (0,) * 5 + (1,) * 19, 4728 - 190),
    (FusionConfig(strategy="upper", start_layer=24, r=98), (0,) * 23 + (98,), 4728 - 98),
])  # fmt: skip
def test_schedules_equal_those_by_hand(fusion, schedule, tokens):
    found = token_schedule(fusion, 24, 197)
    assert found == schedule
    assert sum(tokens_per_layer(found, 197)) == tokens


def test_fusion_stops_at_one_token_and_the_class_token():
    # 17 -> 9 -> 5 -> 3 -> 2 and no further
    assert token_schedule(FusionConfig(strategy="all", r=50), num_layers=6, num_tokens=17) == (8, 4, 2, 1, 0, 0)


def test_explicit_schedule_is_clamped_at_the_end_of_the_sequence():
    # layers 1 to 19 remove 0 + 1 + ... + 18 = 171 of 197 tokens; then 26 -> 14 -> 8 -> 5 -> 3 -> 2
    assert token_schedule(FusionSchedule(schedule=tuple(range(24))), 24, 197) == (*range(19), 12, 6, 3, 2, 1)


def test_most_removable_tokens_of_a_layer():
    assert [most_removable(length) for length in (1, 2, 3, 4, 5, 196, 197)] == [0, 0, 1, 1, 2, 97, 98]


def test_explicit_schedule_resolves_to_itself():
    fusion = FusionSchedule(schedule=[3, 0, 2], order="raster")  # type: ignore[arg-type]
    assert fusion.schedule == (3, 0, 2)
    assert resolve(fusion, TokenGrid(layers=3, tokens=17)) == fusion


def test_labels_resolve_to_a_schedule_with_their_order_and_weighting():
    labels = FusionConfig(strategy="upper", start_layer=2, r=3, order="raster", weighting="size")
    found = resolve(labels, TokenGrid(layers=3, tokens=17))
    assert found == FusionSchedule(schedule=(0, 3, 3), order="raster", weighting="size")


def test_requested_schedules_are_not_clamped():
    assert requested_schedule(FusionConfig(strategy="all", r=50), 3) == (50, 50, 50)


@given(st.lists(st.integers(0, 200), min_size=24, max_size=24), st.integers(2, 300))
def test_clamped_layer_removes_exactly_what_the_sequence_allows(asked, length):
    found = token_schedule(FusionSchedule(schedule=tuple(asked)), 24, length)
    for r, wanted in zip(found, asked, strict=True):
        assert r == min(wanted, (length - 1) // 2)
        length -= r
    assert length >= 2


def test_tokens_per_layer_are_counted_after_its_own_fusion():
    assert tokens_per_layer((2, 0, 3), 10) == (8, 8, 5)


@given(st.integers(0, 500), st.sets(st.integers(1, 24), min_size=1))
def test_spread_meets_the_total_evenly(total, layers):
    schedule = spread(total, sorted(layers), 24)
    fusing = [schedule[layer - 1] for layer in sorted(layers)]
    assert sum(schedule) == sum(fusing) == total
    assert max(fusing) - min(fusing) <= 1
    n = len(layers)
    assert fusing == [(i + 1) * total // n - i * total // n for i in range(n)]


def problems(fusion: FusionConfig | FusionSchedule, num_layers: int = 24) -> tuple[tuple[str, str], ...]:
    with pytest.raises(ConfigError) as refused:
        token_schedule(fusion, num_layers, 197)
    return found(refused.value)


def found(error: ConfigError) -> tuple[tuple[str, str], ...]:
    return tuple((problem.key, problem.sentence) for problem in error.problems)


def test_options_that_do_not_fit_the_strategy_are_refused():
    assert problems(FusionConfig(strategy="lowest", r=1)) == (
        (
            "strategy",
            "'lowest' is not a strategy; did you mean lower? choose from none, all, interleaved, lower, upper",
        ),
    )
    assert problems(FusionConfig(strategy="upper", r=9)) == (
        ("start_layer", "strategy 'upper' needs a layer from 1 to 24"),
    )
    assert problems(FusionConfig(strategy="upper", start_layer=25, r=9)) == (
        ("start_layer", "must be a layer from 1 to 24, not 25"),
    )
    assert problems(FusionConfig(strategy="upper", start_layer=0, stop_layer=7, r=9)) == (
        ("start_layer", "must be a layer from 1 to 24, not 0"),
        ("stop_layer", "strategy 'upper' does not take stop_layer (got 7)"),
    )
    assert problems(FusionConfig(strategy="lower", stop_layer=5)) == (
        ("r", "strategy 'lower' needs r: tokens to remove in each fusing layer"),
    )
    assert problems(FusionSchedule(schedule=(1, 2)), num_layers=3) == (
        ("schedule", "has 2 numbers, but the model has 3 layers"),
    )


def test_wrong_fusion_values_are_reported_together():
    with pytest.raises(ConfigError) as refused:
        FusionConfig(r=-1, order="zigzag", weighting="max")  # type: ignore[arg-type]
    merge_problems = (
        ("order", "'zigzag' is not an order; choose from concat, raster"),
        ("weighting", "'max' is not a weighting; choose from mean, size"),
    )
    assert found(refused.value) == (("r", "must be at least 0, not -1"), *merge_problems)
    with pytest.raises(ConfigError) as refused:
        FusionSchedule(schedule=(0, -2), order="zigzag", weighting="max")  # type: ignore[arg-type]
    assert found(refused.value) == (*merge_problems, ("schedule", "no layer can remove fewer than 0 tokens"))


def test_new_strategy_needs_one_function_only(monkeypatch):
    monkeypatch.setattr("famba_core.fusion.schedule.STRATEGIES", dict(STRATEGIES))

    @strategy
    def ends(num_layers: int, *, start_layer: int, stop_layer: int) -> tuple[int, ...]:
        return (num_layers, start_layer, stop_layer)

    assert layer_keys("ends") == ("start_layer", "stop_layer")
    fusion = FusionConfig(strategy="ends", start_layer=1, stop_layer=3, r=2)
    assert fusing_layers(fusion, num_layers=6) == (1, 3, 6)
    assert token_schedule(fusion, num_layers=6, num_tokens=50) == (2, 0, 2, 0, 0, 2)
    with pytest.raises(ConfigError, match="strategy 'ends' needs a layer"):
        token_schedule(FusionConfig(strategy="ends", start_layer=1, r=2), 6, 50)
