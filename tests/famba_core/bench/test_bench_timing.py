"""Timing in turns: the order, failures and interruptions, and the statistics."""

import pytest
import torch

from famba_core.bench.timing import Rounds, TimedCall, interleave, release
from famba_core.config import ConfigError

CPU = torch.device("cpu")
NO_KERNEL = RuntimeError("no such kernel\nsecond line")
THREE_ROUNDS = Rounds(warmup=1, least=3, most=3)


class Log:
    """Timed calls that record when they are built, prepared and called."""

    def __init__(self):
        self.events = []

    def timed(self, name, fail_at=None, error=NO_KERNEL):
        calls = 0

        def call():
            nonlocal calls
            calls += 1
            self.events.append(name)
            if calls == fail_at:
                raise error

        def build(facts):
            self.events.append(f"build {name}")
            return call

        return TimedCall(name=name, build=build, prepare=lambda: self.events.append(f"prepare {name}"))

    def calls(self):
        return [event for event in self.events if " " not in event]


def finish(calls, rounds=THREE_ROUNDS):
    return list(interleave(calls, device=CPU, rounds=rounds))


def test_each_round_has_a_turn_of_every_call_and_starts_with_another():
    log = Log()
    calls = [log.timed(name) for name in "abc"]
    finish(calls)
    assert log.calls() == list("abc" + "abc" + "bca" + "cab")
    assert [len(c.times_ms) for c in calls] == [3, 3, 3]


def test_process_wide_settings_are_set_before_each_turn():
    log = Log()
    finish([log.timed("a"), log.timed("b")], Rounds(warmup=0, least=2, most=2))
    assert log.events == [
        "prepare a", "build a", "prepare b", "build b",
        "prepare a", "a", "prepare b", "b", "prepare b", "b", "prepare a", "a",
    ]  # fmt: skip


def test_turn_can_have_several_calls():
    log = Log()
    (a, b) = calls = [log.timed("a"), log.timed("b")]
    finish(calls, Rounds(warmup=0, least=2, most=2, calls=3))
    assert "".join(log.calls()) == "aaabbbbbbaaa"
    assert (len(a.times_ms), len(b.times_ms)) == (6, 6)


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_failure_is_recorded_and_the_others_go_on(fail_at):
    log = Log()
    bad, good = log.timed("bad", fail_at), log.timed("good")
    finish([bad, good])
    assert bad.failed == "RuntimeError: no such kernel"
    assert bad.skipped is None
    assert len(good.times_ms) == 3
    assert log.calls().count("bad") == fail_at  # and not again


def test_build_error_fails_and_config_error_skips():
    def missing(facts):
        raise ImportError("no peer")

    def unfit(facts):
        raise ConfigError.of("backend", "needs another device")

    log = Log()
    calls = [TimedCall(name="x", build=missing), TimedCall(name="y", build=unfit), log.timed("z")]
    finish(calls)
    assert (calls[0].failed, calls[1].skipped) == ("ImportError: no peer", "needs another device")
    assert [c.time is None for c in calls] == [True, True, False]


def test_skipped_call_is_not_built():
    log = Log()
    absent = log.timed("absent")
    absent.skipped = "not installed"
    finish([absent, log.timed("a")])
    assert "build absent" not in log.events


def test_interruption_is_raised_and_keeps_the_times():
    log = Log()
    calls = [log.timed("a"), log.timed("b", fail_at=3, error=KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        finish(calls)
    assert [len(c.times_ms) for c in calls] == [1, 1]  # b stops in the second round, which it begins
    assert calls[1].failed is None


def test_no_round_starts_after_the_budget_is_spent():
    log = Log()
    finish([log.timed("a")], Rounds(warmup=0, least=2, most=50, budget_s=0))
    assert log.calls() == ["a", "a"]


def test_time_has_median_and_quartiles():
    timed = Log().timed("a")
    assert timed.time is None
    timed.times_ms = [5.0, 1.0, 2.0, 4.0, 3.0]
    time = timed.time
    assert (time.q25_ms, time.median_ms, time.q75_ms, time.n) == (2.0, 3.0, 4.0, 5)


def test_release_frees_the_calls():
    log = Log()
    timed = log.timed("a")
    finish([timed])
    release([timed], CPU)
    assert timed.call is None
    assert timed.time is not None
