"""The scheduler without any model: a fake decoder that keeps its own account of every cell."""

from collections import Counter
from functools import partial

import pytest
from fake_decoder import FakeDecoder, Recorder, Scored, check_accounts, following, run, submit
from hypothesis import given, settings
from hypothesis import strategies as st

from hanpaca.core.engines.batching import Scheduler
from hanpaca.core.engines.chunks import chunk_beside
from hanpaca.core.engines.lookup import Lookup
from hanpaca.core.errors import Closed, ContextOverflow, EngineFailure, TimedOut


class Oracle(Lookup):
    """Guesses right, but for some."""

    def guess(self, tokens, room):
        guessed: list[int] = []
        while len(guessed) < min(room, 6):
            guessed.append((following([*tokens, *guessed]) + (len(tokens) % 5 == len(guessed))) % 32)
        return guessed


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


def test_right_guesses_save_passes_and_wrong_ones_change_nothing():
    passes = {}
    for lookup in (None, Oracle(6)):
        decoder = FakeDecoder(cells=512, outputs=64, batch=64)
        scheduler = Scheduler(decoder)
        submitted = [Recorder([start, 2, 3], 60) for start in range(4)]
        for job in submitted:
            job.lookup = lookup
            submit(scheduler, decoder, job)
        run(scheduler)
        assert [job.drawn for job in submitted] == [job.expected() for job in submitted]
        assert max(len(rows) for rows in decoder.passes) <= 32, "more would take as long as they are many"
        passes[lookup is not None] = len(decoder.passes)
    assert passes[True] < passes[False] / 2


@pytest.mark.parametrize(("callers", "most"), [(2, 6), (8, 3), (16, 1), (17, 0)])
def test_all_callers_have_the_same_room_for_guesses(callers, most):
    decoder = FakeDecoder(cells=2048, outputs=64, batch=64, sequences=32)
    scheduler = Scheduler(decoder)
    submitted = [Recorder([start, 2, 3], 60) for start in range(callers)]
    for job in submitted:
        job.lookup = Oracle(6)
        submit(scheduler, decoder, job)
    scheduler.step()
    scheduler.step()
    asked = Counter(sequence for sequence, _ in decoder.passes[-1])
    assert set(asked.values()) == {1 + most}


def test_no_more_is_guessed_than_cells_were_promised_for():
    decoder = FakeDecoder(cells=16, outputs=16)
    scheduler = Scheduler(decoder)
    job = Recorder([1, 2, 3, 4], 12)
    job.lookup = Oracle(6)
    submit(scheduler, decoder, job)
    run(scheduler)
    assert job.drawn == job.expected()


def test_nobody_guesses_while_a_prompt_is_computed():
    decoder = FakeDecoder(cells=512, outputs=64, batch=64)
    scheduler = Scheduler(decoder, chunk=8)
    first, long = Recorder([1, 2], 60), Recorder([3] * 60, 1)
    first.lookup = Oracle(6)
    submit(scheduler, decoder, first)
    scheduler.step()
    submit(scheduler, decoder, long)
    while not long.ends:
        before = len(first.drawn)
        scheduler.step()
        assert len(decoder.passes[-1]) <= 9 and len(first.drawn) == before + 1
    scheduler.step()
    assert len(first.drawn) > before + 2


def test_a_request_that_can_never_fit_is_refused_at_once():
    scheduler = Scheduler(FakeDecoder(cells=64))
    with pytest.raises(ContextOverflow, match="64 cells"):
        scheduler.submit(Recorder([1] * 60, 5))


def test_a_long_prompt_delays_a_running_one_by_no_more_than_a_chunk():
    decoder = FakeDecoder(cells=512, batch=64)
    scheduler = Scheduler(decoder, chunk=8)
    submit(scheduler, decoder, Recorder([1, 2], 40))
    scheduler.step()
    submit(scheduler, decoder, Recorder([3] * 200, 4))
    for _ in range(20):
        scheduler.step()
        running = [entry for entry in decoder.passes[-1] if entry[0] == decoder.passes[0][0][0]]
        assert len(running) == 1, "the running request missed a step"
        assert len(decoder.passes[-1]) <= 9


def test_chunks_beside_a_running_one_shorten_as_the_prompt_grows(monkeypatch):
    """Attention looks at all that came before, so equal chunks would take longer and longer steps."""
    monkeypatch.setattr("hanpaca.core.engines.chunks.DEEP", 100)
    decoder = FakeDecoder(cells=1024, batch=64)
    scheduler = Scheduler(decoder, chunk=16)
    submit(scheduler, decoder, Recorder([1, 2], 200))
    scheduler.step()
    submit(scheduler, decoder, Recorder([3] * 300, 4))
    chunks, depth = [], 0
    while depth < 300:
        scheduler.step()
        chunks.append(len(decoder.passes[-1]) - 1)
        depth += chunks[-1]
    *full, _ = chunks
    assert full == sorted(full, reverse=True) and (full[0], full[-1]) == (16, 5)


@pytest.mark.parametrize("decoding, passes", [(1, 64), (4, 64), (24, 64), (48, 128), (70, 128)])
def test_a_pass_with_prompts_fills_whole_tiles(decoding, passes):
    decoder = FakeDecoder(cells=4096, batch=256, outputs=128, sequences=128, tile=64)
    scheduler = Scheduler(decoder, running=128)
    for i in range(decoding):
        submit(scheduler, decoder, Recorder([10 + i, 2], 20))
    scheduler.step()
    submit(scheduler, decoder, Recorder([3] * 900, 4))
    for _ in range(5):
        scheduler.step()
        assert len(decoder.passes[-1]) == passes


@pytest.mark.parametrize("decoding", [1, 15, 16, 17, 60, 64, 100, 128])
@pytest.mark.parametrize("depth", [0, 10_000, 10**6])
def test_however_many_decode_a_prompt_goes_on(decoding, depth):
    decoder = FakeDecoder(batch=256, tile=64)
    for waiting in (1, 2, 31, 45, 63, 5000):
        assert 0 < chunk_beside(decoder, 64, decoding, depth, waiting) <= 64 + 64


def test_where_whole_tiles_take_long_a_pass_fills_half_of_one():
    decoder = FakeDecoder(batch=256, tile=64)
    decoder.tile_depth = 1000
    room = partial(chunk_beside, decoder, 64)
    assert [room(4, depth, 9999) for depth in (0, 999, 1000, 9999)] == [60, 60, 28, 28]
    assert all(16 <= room(decoding, 1000, 9999) <= 48 for decoding in range(1, 128))


def test_what_fills_no_tile_after_a_long_prompt_goes_in_halves():
    """Its attention is computed token by token there, so that all at once would take longer than a full tile."""
    decoder = FakeDecoder(cells=8192, batch=256, tile=64)
    scheduler = Scheduler(decoder)
    submit(scheduler, decoder, Recorder([1, 2], 200))
    scheduler.step()
    submit(scheduler, decoder, Recorder([3] * (63 * 40 + 51), 4))
    run(scheduler)
    prompt = [len(rows) - 1 for rows in decoder.passes if len(rows) > 2]
    assert prompt[-3:] == [63, 26, 25]


def test_a_short_prompt_does_not_wait_for_a_long_one():
    decoder = FakeDecoder(cells=512, batch=16)
    scheduler = Scheduler(decoder)
    submit(scheduler, decoder, Recorder([3] * 300, 4))
    scheduler.step()
    short = Recorder([1, 2, 4, 5], 1)
    submit(scheduler, decoder, short)
    scheduler.step()
    assert short.ends == ["done", "released"]


def test_scores_are_cut_to_what_one_pass_can_give():
    decoder = FakeDecoder(cells=256, batch=64, outputs=8)
    scheduler = Scheduler(decoder)
    tokens = [i % 5 for i in range(60)]
    job = Scored(tokens, 10)
    submit(scheduler, decoder, job)
    run(scheduler)
    assert job.over
    assert job.seen == [(i, following(tokens[: i + 1])) for i in range(10, 60)]


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
