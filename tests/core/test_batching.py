"""The scheduler without any model: a fake decoder that keeps its own account of every cell."""

import pytest
from fake_decoder import FakeDecoder, Oracle, Recorder, check_accounts, run, submit
from hypothesis import given, settings
from hypothesis import strategies as st

from hanpaca.core.engines.batching import Scheduler
from hanpaca.core.engines.lookup import Lookup
from hanpaca.core.errors import Closed, ContextOverflow, EngineFailure, TimedOut

DOCUMENTS = [[(i * step) % 5 for i in range(60)] for step in (1, 2, 3)]
prompts = st.builds(
    lambda document, length, tail: [*DOCUMENTS[document][:length], *tail],
    st.integers(0, 2),
    st.sampled_from([1, 20, 34, 38, 45]),
    st.lists(st.integers(0, 4), max_size=5),
)
jobs = st.tuples(
    prompts, st.integers(1, 20), st.integers(1, 20), st.sampled_from("AB"), st.sampled_from([None, 0.0]),
    st.sampled_from([None, Lookup, Oracle]),
)  # fmt: skip
events = st.lists(
    st.one_of(jobs, jobs, st.integers(0, 30), st.sampled_from(["step", "fail", "abandon A", "forget"])), max_size=60
)


@settings(max_examples=400, deadline=None)
@given(
    events,
    st.integers(1, 8),
    st.integers(1, 16),
    st.integers(0, 40),
    st.sampled_from([0, 40, 60, 90, 1000]),
    st.sampled_from([1, 4, 8]),
    st.sampled_from([1, 7, 1000]),
)
def test_any_mix_of_requests_ends_right_and_within_the_cells(events, running, chunk, idle, shelf, tile, quick):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hanpaca.core.engines.shares.QUICK", quick)
        patch.setattr("hanpaca.core.engines.sequences.QUICK", quick)
        check_any_mix(events, running, chunk, idle, shelf, tile)


def check_any_mix(events, running, chunk, idle, shelf, tile):
    decoder = FakeDecoder(cells=80, tile=tile)
    scheduler = Scheduler(decoder, running=running, chunk=chunk, idle=idle, shelf=shelf)
    submitted: list[Recorder] = []
    for event in events:
        if event == "step":
            step(scheduler, decoder)
        elif event == "fail":
            decoder.fail_next = True
        elif event == "abandon A":
            scheduler.abandon(Closed("closed"), "A")
            assert all(job.ends for job in submitted if job.owner == "A")
        elif event == "forget":
            scheduler.forget_cached()
        elif isinstance(event, int):
            if event < len(submitted):
                submitted[event].cancelled = True
        else:
            tokens, new, stop, owner, timeout, lookup = event
            job = Recorder(tokens, new, min(new, stop), timeout)
            job.lookup = lookup and lookup(3)
            job.owner, job.earlier = owner, list(submitted)
            submit(scheduler, decoder, job)
            submitted.append(job)
        check_accounts(scheduler, decoder)
    for _ in range(2000):
        if scheduler.busy:
            step(scheduler, decoder)
    for job in submitted:
        check_end(job, events)
    assert not scheduler.busy and not scheduler.running and not scheduler.waiting
    scheduler.forget_cached()
    assert decoder.used() == 0


def step(scheduler, decoder):
    """One step, which computes nothing for those who have gone and lets every decoding sequence go on."""
    if not scheduler.busy:
        return
    decoding = [s for s in scheduler._sequences.running if len(s.pending) == 1 and s.job and not s.job.cancelled]
    wanted = {s.id: len(s.tokens) for s in decoding if s.job.deadline is None}
    fails, before = decoder.fail_next, len(decoder.passes)
    scheduler.step()
    check_accounts(scheduler, decoder)
    if fails or not scheduler._sequences.running:
        return
    done = decoder.passes[-1] if len(decoder.passes) > before else []
    assert set(wanted.items()) <= set(done), "a decoding sequence missed a step"


def check_end(job, events):
    """One end, and the right one."""
    end, *released = [type(end).__name__ if isinstance(end, Exception) else end for end in job.ends]
    if end == "released":
        assert job.cancelled and not released
        return
    assert released == ["released"]
    if end == "done":
        assert job.drawn == job.expected()
    elif end == "TimedOut":
        assert job.deadline is not None
    elif end == "Closed":
        assert job.owner == "A" and "abandon A" in events
    else:
        assert end == "EngineFailure" and "fail" in events


@given(st.lists(jobs, min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 30))
def test_a_cancelled_request_is_computed_no_further(jobs, which, after):
    """Whether it waits, prefills or decodes: the next step frees its cells."""
    decoder = FakeDecoder(cells=80)
    scheduler = Scheduler(decoder, chunk=4)
    submitted = [Recorder(tokens, new) for tokens, new, *_ in jobs]
    for job in submitted:
        submit(scheduler, decoder, job)
    for _ in range(after):
        step(scheduler, decoder)
    gone = submitted[which % len(submitted)]
    gone.cancelled = True
    drawn = len(gone.drawn)
    running = [s.id for s in scheduler._sequences.running if s.job is gone]
    step(scheduler, decoder)
    assert gone.ends[-1] == "released" and len(gone.drawn) == drawn
    assert all(s.job is not gone for s in scheduler._sequences.running)
    for sequence in running:  # its id may serve another by now, from that one's own first token on
        assert all(s.job is not None for s in scheduler._sequences.running if s.id == sequence)


def test_a_request_that_can_never_fit_is_refused_at_once():
    scheduler = Scheduler(FakeDecoder(cells=64))
    with pytest.raises(ContextOverflow, match="64 cells"):
        scheduler.submit(Recorder([1] * 60, 5))


def test_a_failing_pass_fails_only_the_requests_in_it():
    decoder = FakeDecoder(cells=64)
    scheduler = Scheduler(decoder, running=1)
    first, second = Recorder([1, 2, 3], 4), Recorder([4, 5, 6], 4)
    submit(scheduler, decoder, first)
    submit(scheduler, decoder, second)
    decoder.fail_next = True
    run(scheduler)
    assert isinstance(first.ends[0], EngineFailure)
    assert second.ends[0] == "done" and second.drawn == second.expected()


@pytest.mark.parametrize("method", ["copy", "trim", "saved_size", "decode"])
def test_after_a_fault_of_ours_every_job_hears_of_it_and_the_next_ones_are_served(method):
    class Faulty(FakeDecoder):
        fault = False

        def __getattribute__(self, name):
            if name == method and object.__getattribute__(self, "fault"):
                self.fault = False
                raise RuntimeError("a fault of ours")
            return object.__getattribute__(self, name)

    decoder = Faulty(cells=60, batch=64, sequences=8)
    scheduler = Scheduler(decoder, idle=0, shelf=100)
    running = Recorder([1] * 20, 15)
    submit(scheduler, decoder, running)
    scheduler.step()
    waiting = [Recorder([1] * 10 + [2], 2), Recorder([3] * 40, 2)]
    for job in waiting:
        submit(scheduler, decoder, job)
    decoder.fault = True
    with pytest.raises(RuntimeError, match="of ours"):
        run(scheduler)
    ended = [job for job in (running, *waiting) if job.ends]
    scheduler.reset(EngineFailure("simulated"))
    for job in (running, *waiting):
        assert job.ends.count("released") == 1
        assert job in ended or isinstance(job.ends[0], EngineFailure)
    check_accounts(scheduler, decoder)
    after = Recorder([1] * 20, 30)
    submit(scheduler, decoder, after)
    run(scheduler)
    assert after.drawn == after.expected()


def test_an_error_in_one_callers_output_touches_no_other():
    decoder = FakeDecoder(cells=64)
    scheduler = Scheduler(decoder)

    class Faulty(Recorder):
        def output(self, row, position):
            raise RuntimeError("in the caller's own code")

    bad, good = Faulty([1, 2], 4), Recorder([3, 4], 4)
    submit(scheduler, decoder, bad)
    submit(scheduler, decoder, good)
    run(scheduler)
    assert isinstance(bad.ends[0], RuntimeError)
    assert good.drawn == good.expected()


def test_an_expired_request_hears_so_whether_it_waits_or_runs():
    decoder = FakeDecoder(cells=64)
    scheduler = Scheduler(decoder, running=1)
    running, waiting = Recorder([1], 30, timeout=0.0), Recorder([2], 30, timeout=0.0)
    submit(scheduler, decoder, running)
    submit(scheduler, decoder, waiting)
    run(scheduler)
    assert isinstance(running.ends[0], TimedOut) and isinstance(waiting.ends[0], TimedOut)


def test_abandoning_ends_the_jobs_of_one_owner_only():
    decoder = FakeDecoder(cells=256)
    scheduler = Scheduler(decoder)
    mine, other = Recorder([1, 2], 4), Recorder([3, 4], 4)
    mine.owner, other.owner = "me", "you"
    submit(scheduler, decoder, mine)
    submit(scheduler, decoder, other)
    scheduler.step()
    scheduler.abandon(Closed("closed"), "me")
    run(scheduler)
    assert isinstance(mine.ends[0], Closed)
    assert other.drawn == other.expected()
