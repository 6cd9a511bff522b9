"""What the scheduler keeps of finished requests, and shares with others: over a fake decoder, without any model."""

import pytest
from fake_decoder import FakeDecoder, Recorder, check_accounts, run, submit
from hypothesis import given
from hypothesis import strategies as st

from hanpaca.core.engines.batching import Scheduler
from hanpaca.core.engines.jobs import common_prefix


def test_a_finished_conversation_is_continued_without_computing_it_again():
    decoder = FakeDecoder(cells=256, batch=64)
    scheduler = Scheduler(decoder)
    first = Recorder(list(range(30)), 5)
    submit(scheduler, decoder, first)
    run(scheduler)
    before = scheduler.computed
    second = Recorder([*first.tokens, *first.drawn, 9, 9, 9], 2)
    submit(scheduler, decoder, second)
    run(scheduler)
    assert second.cached == 34  # the last token drawn was never computed
    assert scheduler.computed - before == 4 + 1
    assert second.drawn == second.expected()


def test_questions_over_one_document_that_come_together_compute_it_once():
    decoder = FakeDecoder(cells=4096, batch=64, sequences=16, outputs=16)
    scheduler = Scheduler(decoder)
    document = [i % 7 for i in range(1000)]
    asked = [Recorder([*document, 10 + i], 3) for i in range(8)]
    for job in asked:
        submit(scheduler, decoder, job)
    run(scheduler)
    assert scheduler.computed <= 1000 + 8 * 4
    assert all(job.drawn == job.expected() for job in asked)


def test_a_prefix_is_shared_with_a_request_that_still_runs():
    decoder = FakeDecoder(cells=512, batch=64)
    scheduler = Scheduler(decoder)
    first = Recorder([1] * 50, 100)
    submit(scheduler, decoder, first)
    scheduler.step()
    scheduler.step()
    second = Recorder([1] * 50 + [2], 2)
    submit(scheduler, decoder, second)
    run(scheduler)
    assert second.cached == 50
    assert first.drawn == first.expected() and second.drawn == second.expected()


def test_what_was_used_last_stays_longest():
    decoder = FakeDecoder(cells=64, batch=64, sequences=8)
    scheduler = Scheduler(decoder)
    for token in (1, 2):
        submit(scheduler, decoder, Recorder([token] * 20, 2))
        run(scheduler)
    submit(scheduler, decoder, Recorder([1] * 20, 2))  # uses the older one again
    run(scheduler)
    submit(scheduler, decoder, Recorder([3] * 30, 2))  # needs room: the sequence of 2s goes
    run(scheduler)
    again = Recorder([1] * 20, 1)
    submit(scheduler, decoder, again)
    run(scheduler)
    assert again.cached == 19


def test_idle_sequences_leave_the_cells_and_come_back_from_the_shelf():
    decoder = FakeDecoder(cells=512, batch=64)
    scheduler = Scheduler(decoder, idle=50, shelf=1000)
    history = [i % 7 for i in range(100)]
    submit(scheduler, decoder, Recorder(history, 2))
    run(scheduler)
    other = Recorder([9] * 60, 3)
    submit(scheduler, decoder, other)
    scheduler.step()
    assert decoder.used() == 60, "the idle sequence was put away while another runs"
    again = Recorder([*history, 3, 3], 3)
    submit(scheduler, decoder, again)
    run(scheduler)
    assert again.cached == 100 and decoder.restored == 1
    assert again.drawn == again.expected()
    check_accounts(scheduler, decoder)


class Copying(FakeDecoder):
    """Notes how many tokens each step copies; one takes a byte."""

    copied = 0

    def save(self, sequence, start, stop):
        self.copied += stop - start
        return super().save(sequence, start, stop)


@pytest.mark.parametrize("quick", [1, 30, 100, 250])
def test_a_step_copies_no_more_than_is_quick_and_goes_on(monkeypatch, quick):
    for module in ("shares", "sequences"):
        monkeypatch.setattr(f"hanpaca.core.engines.{module}.QUICK", quick)
    decoder = Copying(cells=1024, batch=64)
    scheduler = Scheduler(decoder, idle=50, shelf=1000)
    histories = [[start] * 100 for start in (1, 2, 3)]
    for history in histories:  # idle sequences
        submit(scheduler, decoder, Recorder(history, 2))
    run(scheduler)
    decoder.copied = 0
    submit(scheduler, decoder, Recorder([9] * 5, 200))
    submit(scheduler, decoder, Recorder([8] * 300, 100))
    most = 0
    while scheduler.busy:
        before = decoder.copied
        scheduler.step()
        most = max(most, decoder.copied - before)
        check_accounts(scheduler, decoder)
    assert most == min(quick, 300) and decoder.copied >= 200
    for history in histories[:2]:  # what came in pieces is whole
        again = Recorder([*history, 7], 3)
        submit(scheduler, decoder, again)
        run(scheduler)
        assert again.cached >= 99 and again.drawn == again.expected()


def test_after_a_long_copy_a_step_prefills_nothing(monkeypatch):
    """Where a request needs the cells at once, a sequence is not copied in pieces."""
    for module in ("shares", "sequences"):
        monkeypatch.setattr(f"hanpaca.core.engines.{module}.QUICK", 30)
    decoder = Copying(cells=512, batch=64)
    scheduler = Scheduler(decoder, idle=500, shelf=1000)
    submit(scheduler, decoder, Recorder([1] * 300, 2))
    run(scheduler)
    submit(scheduler, decoder, Recorder([9] * 5, 40))
    scheduler.step()
    submit(scheduler, decoder, Recorder([8] * 250, 2))
    scheduler.step()
    assert decoder.copied == 301 and len(decoder.passes[-1]) == 1, "the decoding sequence's token alone"


def test_a_half_copied_sequence_can_be_taken_over(monkeypatch):
    monkeypatch.setattr("hanpaca.core.engines.sequences.QUICK", 30)
    decoder = Copying(cells=1024, batch=64)
    scheduler = Scheduler(decoder, idle=10, shelf=1000)
    history = [i % 7 for i in range(100)]
    submit(scheduler, decoder, Recorder(history, 2))
    while not decoder.copied:
        scheduler.step()
    again = Recorder([*history, 3, 3], 3)
    submit(scheduler, decoder, again)
    scheduler.step()
    assert 0 < decoder.copied < 100 and again.cached >= 100
    run(scheduler)
    assert again.drawn == again.expected()
    more = Recorder([*again.tokens, *again.drawn, 5], 3)
    submit(scheduler, decoder, more)
    run(scheduler)
    assert more.cached >= 104 and more.drawn == more.expected()


def test_while_nothing_runs_idle_sequences_leave_the_cells():
    """So that the next one's cells begin at the first, and a pass looks no further than it must."""
    decoder = FakeDecoder(cells=1024, batch=64)
    scheduler = Scheduler(decoder, idle=50, shelf=150)
    for tokens in ([1] * 200, [2] * 100, [3] * 40):
        submit(scheduler, decoder, Recorder(tokens, 2))
        run(scheduler)
    assert decoder.used() == 201 and not scheduler.busy, "the first is too long for the shelf, and stays"
    for tokens, cached in (([1] * 250, 200), ([3] * 60, 40)):
        again = Recorder(tokens, 2)
        submit(scheduler, decoder, again)
        run(scheduler)
        assert again.cached >= cached and again.drawn == again.expected()


def test_what_a_shelved_sequence_holds_already_is_not_copied_again():
    decoder = FakeDecoder(cells=4096, batch=64, sequences=16, outputs=16)
    scheduler = Scheduler(decoder, idle=0, shelf=10_000)
    document = [i % 7 for i in range(500)]
    for question in range(6):
        submit(scheduler, decoder, Recorder([*document, 10 + question], 2))
        run(scheduler)
    submit(scheduler, decoder, Recorder([20] * 10, 2))
    run(scheduler)
    assert scheduler._sequences.shelf.used <= 520


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.integers(0, 20))
def test_common_prefix(first, second, limit):
    expected = 0
    while expected < min(len(first), len(second), limit) and first[expected] == second[expected]:
        expected += 1
    assert common_prefix(first, second, limit) == expected
