"""What the scheduler keeps of finished requests, and shares with others: over a fake decoder, without any model."""

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


def test_a_step_copies_one_sequence_at_most_and_then_prefills_nothing():
    saves = []

    class Counting(FakeDecoder):
        def save(self, sequence):
            saves.append(sequence)
            return super().save(sequence)

    decoder = Counting(cells=1024, batch=64)
    scheduler = Scheduler(decoder, idle=50, shelf=1000)
    for start in (1, 2, 3):  # three idle sequences
        submit(scheduler, decoder, Recorder([start] * 100, 2))
    run(scheduler)
    submit(scheduler, decoder, Recorder([9] * 5, 40))
    scheduler.step()
    submit(scheduler, decoder, Recorder([8] * 300, 2))
    while scheduler.busy:
        before = len(saves)
        scheduler.step()
        assert len(saves) - before <= 1
        if len(saves) > before:
            assert len(decoder.passes[-1]) == 1, "the decoding sequence's token alone"
    assert len(saves) >= 3


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
