"""The finding of a study: which row is compared, and what is said of noise and seeds."""

import pandas as pd
import pytest

from sweep.report.finding import describe_finding

OBJECTIVES = {"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"}


def table_of(*rows: tuple[str, float, float, float], seeds: int = 1, std: float = float("nan")) -> pd.DataFrame:
    """Rows of (configuration, top-1, seconds, MiB); the first is the one without fusion."""
    table = pd.DataFrame(rows, columns=["configuration", "top1_best_pct", "train_time_s", "peak_memory_mib"])
    table["strategy"] = ["none" if name == "no fusion" else "upper" for name in table["configuration"]]
    for label in ("backbone", "start_layer", "stop_layer", "r", "order", "weighting"):
        table[label] = "x"
    return table.assign(
        top1_best_pct_std=std,
        seeds_measured=seeds,
        train_time_ratio=table["train_time_s"] / 100,
        peak_memory_ratio=table["peak_memory_mib"] / 200,
    )


UNFUSED = ("no fusion", 90.0, 100.0, 200.0)  # its standard error on 900 images: sqrt(90 * 10 / 900) = 1 point
SINGLE = (
    "Noise is 1.0 points, the standard error on 900 test images, of a single seed: train more before you rely on it."
)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [("start 8, r 10", 89.1, 87.0, 130.0), ("start 4, r 8", 88.9, 80.0, 120.0)],
            "start 8, r 10 against no fusion: same top-1 within noise, 13% less time, 35% less memory.",
        ),
        (
            [("start 8, r 10", 92.5, 103.0, 200.0)],
            "start 8, r 10 against no fusion: top-1 2.5 points higher, 3% more time, same memory.",
        ),
        (
            [("start 8, r 10", 85.0, 87.0, 130.0), ("start 4, r 8", 80.0, 50.0, 100.0)],
            "No row on the frontier keeps the top-1; the nearest is start 8, r 10 against no fusion: "
            "top-1 5.0 points lower, 13% less time, 35% less memory.",
        ),
        (  # as good, but beaten in everything by another
            [("start 8, r 10", 89.1, 80.0, 130.0), ("start 9, r 9", 89.0, 81.0, 140.0)],
            "start 8, r 10 against no fusion: same top-1 within noise, 20% less time, 35% less memory.",
        ),
    ],
)
def test_the_cheapest_row_that_keeps_the_top1_is_compared(rows: list, sentence: str) -> None:
    assert describe_finding(table_of(UNFUSED, *rows), OBJECTIVES, 900) == (sentence, SINGLE)


def test_the_spread_of_seeds_counts_if_it_is_larger() -> None:
    table = table_of(UNFUSED, ("start 8, r 10", 88.0, 87.0, 130.0), seeds=3, std=2.5)
    first, second = describe_finding(table, OBJECTIVES, 900)
    assert first.startswith("start 8, r 10 against no fusion: same top-1 within noise, 13% less time")
    assert second == (
        "Noise is 2.5 points, the larger of the standard error on 900 test images and the spread of the seeds, "
        "over 3 seeds."
    )


def test_without_test_images_and_seeds_the_noise_is_not_known() -> None:
    first, second = describe_finding(table_of(UNFUSED, ("start 8, r 10", 90.0, 87.0, 130.0)), OBJECTIVES, None)
    assert first.startswith("start 8, r 10 against no fusion: ")
    assert second.startswith("There is a single seed and the test set's size is not known")


@pytest.mark.parametrize(
    ("table", "lacking"),
    [
        (table_of(UNFUSED), "a row with fusion"),
        (table_of(("start 8, r 10", 90.0, 87.0, 130.0)), "the row without fusion"),
    ],
)
def test_an_unfinished_study_has_no_finding(table: pd.DataFrame, lacking: str) -> None:
    assert describe_finding(table, OBJECTIVES, 900)[0] == f"No finding yet: {lacking} is missing."
