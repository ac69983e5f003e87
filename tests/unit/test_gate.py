from __future__ import annotations

import msgspec
import pytest

from sluiced.budgets import Cost
from sluiced.gate import Gate, LimitSettings
from sluiced.units import Size, decode

FREE = Cost(records=1, bytes=1, tokens=1)


def test_no_more_batches_enter_than_there_are_slots() -> None:
    gate = Gate(LimitSettings(max_in_flight=2))
    gate.enter()
    assert gate.free
    gate.enter()
    assert not gate.free
    assert (gate.taken, gate.slots) == (2, 2)
    gate.leave()
    assert gate.free


def test_forcing_a_full_gate_is_a_bug_that_shows() -> None:
    gate = Gate(LimitSettings())
    gate.enter()
    with pytest.raises(RuntimeError, match="full gate"):
        gate.enter()


def test_nobody_may_knock_before_the_hold_is_over() -> None:
    gate = Gate(LimitSettings())
    assert gate.wait(FREE, 100.0) == (0, "")
    gate.hold(130.0)
    assert gate.wait(FREE, 100.0) == (30.0, "server")
    assert gate.wait(FREE, 130.0) == (0, "")
    assert gate.wait(FREE, 131.0) == (0, "")


def test_a_longer_hold_is_not_shortened_by_a_shorter_one() -> None:
    gate = Gate(LimitSettings())
    gate.hold(130.0)
    gate.hold(110.0)
    assert gate.wait(FREE, 100.0).seconds == 30.0
    gate.hold(140.0)
    assert gate.wait(FREE, 100.0).seconds == 40.0


@pytest.mark.parametrize("document", [{"max_in_flight": 0}, {"memory": "15MiB"}])
def test_limits_that_let_nothing_through_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, LimitSettings, dec_hook=decode)


def test_the_default_budget_is_256_mib_and_one_batch_at_a_time() -> None:
    assert LimitSettings().memory == Size.parse("256MiB")
    assert LimitSettings().max_in_flight == 1
