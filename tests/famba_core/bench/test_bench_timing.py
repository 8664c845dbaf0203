"""Turns: their order, what a failure or an interruption does to the others, and the statistics."""

import pytest
import torch

from famba_core.bench.timing import Contender, Rounds, interleave, release
from famba_core.config import ConfigError

CPU = torch.device("cpu")
NO_KERNEL = RuntimeError("no such kernel\nsecond line")
THREE_ROUNDS = Rounds(warmup=1, least=3, most=3)


class Log:
    """Contenders that note when they are built, prepared and called."""

    def __init__(self):
        self.events = []

    def contender(self, name, fail_at=None, error=NO_KERNEL):
        calls = 0

        def call():
            nonlocal calls
            calls += 1
            self.events.append(name)
            if calls == fail_at:
                raise error

        def build():
            self.events.append(f"build {name}")
            return call

        return Contender(name=name, build=build, prepare=lambda: self.events.append(f"prepare {name}"))

    def calls(self):
        return [event for event in self.events if " " not in event]


def finish(contenders, rounds=THREE_ROUNDS):
    return list(interleave(contenders, device=CPU, rounds=rounds))


def test_everyone_has_a_turn_in_every_round_and_each_round_begins_with_another():
    log = Log()
    contenders = [log.contender(name) for name in "abc"]
    finish(contenders)
    assert log.calls() == list("abc" + "abc" + "bca" + "cab")
    assert [len(c.times_ms) for c in contenders] == [3, 3, 3]


def test_process_wide_settings_are_set_before_each_turn():
    log = Log()
    finish([log.contender("a"), log.contender("b")], Rounds(warmup=0, least=2, most=2))
    assert log.events == [
        "prepare a", "build a", "prepare b", "build b",
        "prepare a", "a", "prepare b", "b", "prepare b", "b", "prepare a", "a",
    ]  # fmt: skip


def test_a_turn_can_be_several_calls():
    log = Log()
    (a, b) = contenders = [log.contender("a"), log.contender("b")]
    finish(contenders, Rounds(warmup=0, least=2, most=2, calls=3))
    assert "".join(log.calls()) == "aaabbbbbbaaa"
    assert (len(a.times_ms), len(b.times_ms)) == (6, 6)


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_a_failure_is_reported_and_the_others_go_on(fail_at):
    log = Log()
    bad, good = log.contender("bad", fail_at), log.contender("good")
    finish([bad, good])
    assert bad.failed == "RuntimeError: no such kernel"
    assert bad.skipped is None
    assert len(good.times_ms) == 3
    assert log.calls().count("bad") == fail_at  # and not again


def test_what_cannot_be_built_fails_and_what_does_not_fit_is_skipped():
    def missing():
        raise ImportError("no peer")

    def unfit():
        raise ConfigError([("backend", "needs another device")])

    log = Log()
    contenders = [Contender(name="x", build=missing), Contender(name="y", build=unfit), log.contender("z")]
    finish(contenders)
    assert (contenders[0].failed, contenders[1].skipped) == ("ImportError: no peer", "needs another device")
    assert [c.time is None for c in contenders] == [True, True, False]


def test_what_is_skipped_from_the_start_is_not_built():
    log = Log()
    absent = log.contender("absent")
    absent.skipped = "not installed"
    finish([absent, log.contender("a")])
    assert "build absent" not in log.events


def test_an_interruption_comes_through_and_keeps_the_times():
    log = Log()
    contenders = [log.contender("a"), log.contender("b", fail_at=3, error=KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        finish(contenders)
    assert [len(c.times_ms) for c in contenders] == [1, 1]  # b stops in the second round, which it begins
    assert contenders[1].failed is None


def test_no_further_round_begins_when_the_budget_is_spent():
    log = Log()
    finish([log.contender("a")], Rounds(warmup=0, least=2, most=50, budget_s=0))
    assert log.calls() == ["a", "a"]


def test_median_and_quartiles():
    contender = Log().contender("a")
    assert contender.time is None
    contender.times_ms = [5.0, 1.0, 2.0, 4.0, 3.0]
    time = contender.time
    assert (time.q25_ms, time.median_ms, time.q75_ms, time.n) == (2.0, 3.0, 4.0, 5)


def test_released_contenders_hold_nothing():
    log = Log()
    contender = log.contender("a")
    finish([contender])
    release([contender], CPU)
    assert contender.call is None
    assert contender.time is not None
