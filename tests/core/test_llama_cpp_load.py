"""Thousands of mixed requests at once, in a process of their own, whose memory is theirs alone."""

import asyncio
import multiprocessing
import random
import threading
from dataclasses import dataclass
from typing import Any

import psutil
from llama_engines import generate, open_engine, wait_until

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Delta, Request
from hanpaca.core.errors import BadInput, ContextOverflow, TimedOut
from hanpaca.core.sampling import Sampling

KINDS = ("whole", "whole", "cancel", "stop", "grammar", "schema", "timeout", "oversize", "empty")
REFUSED = {"oversize": ContextOverflow, "empty": BadInput}


@dataclass
class Plan:
    """One request, and after how many deltas its caller leaves."""

    kind: str
    request: Request
    leave: int


class Load:
    """Requests of every kind from many threads and one event loop, each with the end that it must have."""

    def __init__(self, engine, seed):
        self.engine, self.random, self.lock = engine, random.Random(seed), threading.Lock()
        self.problems, self.ends = [], {}
        document = [1, *(self.random.randrange(3, 290) for _ in range(400))]
        self.prefixes = [document[:length] for length in (1, 5, 100, 400)]

    def plan(self):
        with self.lock:
            kind, chance = self.random.choice(KINDS), self.random.random()
            tail = [self.random.randrange(3, 290) for _ in range(self.random.choice([0, 1, 30, 500]))]
            tokens = (self.random.choice(self.prefixes) + tail)[:1000]
            new, leave = self.random.randrange(1, 24), self.random.randrange(1, 4)
        tokens = {"oversize": [1] * 2000, "empty": []}.get(kind, tokens)
        options: dict[str, dict[str, Any]] = {
            "stop": {"stop": ("e", "the")},
            "grammar": {"grammar": "root ::= [a-z]+"},
            "schema": {"json_schema": {"enum": ["yes", "no", 3, None]}},
            "timeout": {"timeout": chance * 0.02},
        }
        settings = options.get(kind, {})
        sampling = Sampling(max_tokens=new, temperature=chance, seed=int(chance * 1000), logprobs=0, **settings)
        return Plan(kind, Request(tokens, sampling), leave if kind == "cancel" else 10**6)

    def judge(self, plan, deltas, error):
        """Note what a request's end should not have been."""
        kind, sampling = plan.kind, plan.request.sampling
        if error is not None:
            fine = isinstance(error, REFUSED.get(kind, TimedOut if kind == "timeout" else ()))
            self.note(plan, fine, type(error).__name__, repr(error))
        elif not deltas or deltas[-1].finish_reason is None:
            self.note(plan, kind == "cancel" and len(deltas) == plan.leave, "left", deltas)
        else:
            last = deltas[-1]
            entries = [entry for delta in deltas for entry in delta.logprobs]
            whole = b"".join(self.engine.token_bytes(entry.token) for entry in entries).decode("utf-8", "replace")
            text = "".join(delta.text for delta in deltas)
            ended = last.usage.completion_tokens - len(entries)  # the token that ends an answer is no entry
            stopped = ended == 1 or any(stop in whole for stop in sampling.stop)
            fine = kind not in REFUSED and last.finish_reason == ("stop" if stopped else "length") and ended in (0, 1)
            fine &= last.usage.prompt_tokens == len(plan.request.tokens)
            fine &= stopped or last.usage.completion_tokens == sampling.max_tokens
            fine &= not any(delta.finish_reason for delta in deltas[:-1])
            fine &= not any(stop in text for stop in sampling.stop) and (kind == "stop" or text == whole)
            fine &= kind != "grammar" or not text or (text.isascii() and text.isalpha() and text.islower())
            fine &= kind != "schema" or not ended or text in ('"yes"', '"no"', "3", "null")
            self.note(plan, fine, last.finish_reason, whole, last)

    def note(self, plan, fine, end, *what):
        with self.lock:
            self.ends[plan.kind, end] = self.ends.get((plan.kind, end), 0) + 1
            if not fine:
                self.problems.append(f"{plan.kind} {plan.request.sampling} ended in {end}: {what}")

    def one(self):
        plan, deltas, error = self.plan(), list[Delta](), None
        try:
            stream = streams.stream(self.engine, plan.request)
            while len(deltas) < plan.leave and (delta := next(stream, None)) is not None:
                deltas.append(delta)
            stream.close()
        except Exception as raised:
            error = raised
        self.judge(plan, deltas, error)

    async def one_async(self):
        plan, deltas, error = self.plan(), list[Delta](), None

        async def listen():
            async for delta in streams.astream(self.engine, plan.request):
                deltas.append(delta)
                if len(deltas) >= plan.leave:
                    await asyncio.sleep(60)  # until the task is cancelled

        task = asyncio.create_task(listen())
        if plan.kind == "cancel":
            while len(deltas) < plan.leave and not task.done():
                await asyncio.sleep(0.001)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            plan.leave = len(deltas)
        except Exception as raised:
            error = raised
        self.judge(plan, deltas, error)

    def from_threads(self, count, each):
        threads = [threading.Thread(target=lambda: [self.one() for _ in range(each)]) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
            if thread.is_alive():
                self.problems.append("a request does not end")

    async def from_tasks(self, count):
        await asyncio.wait_for(asyncio.gather(*(self.one_async() for _ in range(count))), 240)


def _two_thousand(path, results):
    engine = open_engine(path, threads=1, running=24, prefix_memory=1 << 20)  # full before it is measured
    load, process = Load(engine, seed=1), psutil.Process()
    load.from_threads(16, 9)
    asyncio.run(load.from_tasks(56))
    before = process.memory_info().rss
    load.from_threads(16, 100)
    for _ in range(4):
        asyncio.run(load.from_tasks(50))
    after = process.memory_info().rss
    wait_until(lambda: not any(scheduler.busy for _, scheduler in engine._shared._contexts.values()))
    load.from_threads(1, 1)  # it still serves
    engine.close()
    results.put((before, after, load.ends, load.problems[:5]))


def test_two_thousand_mixed_requests(tiny_file, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # the allocator's pieces for each thread grow where nothing leaks
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_two_thousand, args=(tiny_file, results))
    child.start()
    before, after, ends, problems = results.get()
    child.join(30)
    assert child.exitcode == 0
    assert not problems, problems
    assert after <= before * 1.05, (before, after)
    assert sum(ends.values()) == 2001
    due = [("whole", "length"), ("stop", "stop"), ("grammar", "stop"), ("schema", "stop"), ("cancel", "left")]
    due += [("oversize", "ContextOverflow"), ("empty", "BadInput")]
    assert set(due) <= ends.keys(), "every kind of end was met"


def _child(path, queue):
    engine = open_engine(path)
    queue.put(generate(engine, [1, 270])[0].text)
    engine.close()


def test_a_spawned_process_loads_its_own(tiny, tiny_file):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(tiny_file, queue))
    child.start()
    assert isinstance(queue.get(), str)
    child.join(30)
    assert child.exitcode == 0
