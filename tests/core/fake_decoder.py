"""A decoder without a model, which keeps its own account of every cell, and the jobs that tests give the scheduler."""

import hashlib

from hanpaca.core.engines.jobs import Job
from hanpaca.core.engines.lookup import Lookup
from hanpaca.core.errors import EngineFailure


class FakeDecoder:
    """Keeps what each sequence holds, refuses all that llama.cpp would die of, and "computes" by hashing."""

    def __init__(self, cells=64, batch=16, outputs=8, sequences=8, tile=1):
        self.cells, self.batch, self.outputs, self.sequences, self.tile = cells, batch, outputs, sequences, tile
        self.tile_depth = 2**30
        self.held: dict[int, list[tuple[int, int]]] = {i: [] for i in range(sequences)}
        """Sequence → (cell, token) of each position."""
        self.next_cell = 0
        self.rows = {}
        self.passes = []
        self.fail_next = False
        self.restored = 0

    def used(self):
        return len({cell for held in self.held.values() for cell, _ in held})

    def decode(self, tokens, positions, sequences, outputs):
        assert 0 < len(tokens) <= self.batch
        assert sum(outputs) <= self.outputs
        if self.fail_next:
            self.fail_next = False
            raise EngineFailure("simulated")
        self.rows = {}
        self.passes.append(list(zip(sequences, positions, strict=True)))
        for row, (token, position, sequence, output) in enumerate(
            zip(tokens, positions, sequences, outputs, strict=True)
        ):
            assert position == len(self.held[sequence]), "a gap in positions"
            self.held[sequence].append((self.next_cell, token))
            self.next_cell += 1
            if output:
                self.rows[row] = following([t for _, t in self.held[sequence]])
        assert self.used() <= self.cells, "more cells than there are"

    def copy(self, source, target, length):
        assert not self.held[target], "copy into a sequence that is not empty"
        assert length <= len(self.held[source])
        self.held[target] = self.held[source][:length]

    def trim(self, sequence, length):
        assert length <= len(self.held[sequence])
        del self.held[sequence][length:]

    def saved_size(self, sequence):
        return len(self.held[sequence])

    def save(self, sequence, start, stop):
        assert 0 <= start < stop <= len(self.held[sequence])
        return [token for _, token in self.held[sequence][start:stop]]

    def restore(self, sequence, pieces):
        assert not self.held[sequence], "restored into a sequence that is not empty"
        state = [token for piece in pieces for token in piece]
        self.held[sequence] = [(self.next_cell + i, token) for i, token in enumerate(state)]
        self.next_cell += len(state)
        assert self.used() <= self.cells, "more cells than there are"
        self.restored += 1
        return self.restored % 5 != 3 or self.held.update({sequence: []})  # now and then it cannot be


def following(tokens):
    """A stand-in for a model: the next token depends on every token before it."""
    return hashlib.blake2b(bytes(t % 256 for t in tokens), digest_size=1).digest()[0] % 32


class Recorder(Job):
    """Asks for tokens until `stop_at` are there, and remembers how it ended."""

    def __init__(self, tokens, max_new, stop_at=None, timeout=None):
        super().__init__(tokens, max_new, len(tokens) - 1, timeout)
        self.stop_at = max_new if stop_at is None else stop_at
        self.drawn, self.ends, self.cached = [], [], None
        self.earlier: list[Recorder] = []

    def started(self, cached):
        assert self.cached is None, "started twice"
        self.cached = cached
        overtaken = [job for job in self.earlier if job.cached is None and not job.ends and not job.cancelled]
        assert all(job.defer for job in overtaken), "out of turn, and the one before waits for no prefix"

    def output(self, row, position):
        assert position == len(self.tokens) + len(self.drawn) - 1
        self.drawn.append(self.decoder.rows[row])
        if len(self.drawn) < self.stop_at:
            return self.drawn[-1]
        self.ends.append("done")
        return None

    def fail(self, error):
        self.ends.append(error)

    def released(self):
        self.ends.append("released")

    def expected(self):
        tokens = list(self.tokens)
        for _ in range(self.stop_at):
            tokens.append(following(tokens))
        return tokens[len(self.tokens) :]


class Scored(Job):
    """Wants an output at many positions of its own tokens."""

    def __init__(self, tokens, first):
        super().__init__(tokens, 1, first)
        self.seen, self.over = [], False

    def output(self, row, position):
        self.seen.append((position, self.decoder.rows[row]))

    def fail(self, error):
        raise error

    def released(self):
        self.over = True


class Oracle(Lookup):
    """Guesses right, but for some."""

    def guess(self, tokens, room):
        guessed: list[int] = []
        while len(guessed) < min(room, 6):
            guessed.append((following([*tokens, *guessed]) + (len(tokens) % 5 == len(guessed))) % 32)
        return guessed


def submit(scheduler, decoder, job):
    job.decoder = decoder
    scheduler.submit(job)


def run(scheduler, steps=2000):
    for _ in range(steps):
        if not scheduler.busy:
            return
        scheduler.step()
    raise AssertionError("the scheduler does not come to an end")


def check_accounts(scheduler, decoder):
    cells = scheduler._sequences.cells
    assert cells.used == decoder.used(), "the ledger differs from what the decoder holds"
    assert cells.used + scheduler._sequences.promised <= cells.capacity
    for sequence in (*scheduler._sequences.running, *scheduler._sequences.cached):
        assert sequence.tokens == [token for _, token in decoder.held[sequence.id]]
        assert len(sequence.cells) == len(sequence.tokens)
    assert (
        scheduler._sequences.shelf.used
        == sum(entry.size for entry in scheduler._sequences.shelf._entries)
        <= scheduler._sequences.shelf.budget
    )
    ids = [s.id for s in (*scheduler._sequences.running, *scheduler._sequences.cached)] + scheduler._sequences._free_ids
    assert sorted(ids) == list(range(decoder.sequences))
