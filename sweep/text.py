"""Numbers in sentences."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """A number and its noun, such as "1 trial" or "2 trials"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def clock(seconds: float | None, *, with_hours: bool = False) -> str:
    """Return a duration as 1:02:03, without hours as 2:03 or, with `with_hours`, 0:02:03; None as "?"."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours or with_hours else f"{minutes}:{rest:02}"
