"""Numbers in sentences."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """A number and its noun, such as "1 trial" or "2 trials"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds as 1:02:03 or 2:03; "?" where nobody knows yet."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
