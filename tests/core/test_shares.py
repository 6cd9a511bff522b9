"""What one pass computes, by a fake decoder: chunks of prompts, guesses, and nobody who waits long."""

from collections import Counter
from functools import partial

import pytest
from fake_decoder import FakeDecoder, Oracle, Recorder, Scored, following, run, submit

from hanpaca.core.engines.batching import Scheduler
from hanpaca.core.engines.chunks import chunk_beside


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
