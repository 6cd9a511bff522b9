"""Thousands of mixed requests at once, and another process beside."""

import asyncio
import multiprocessing
import random
import threading

import psutil
from llama_engines import generate, open_engine

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.errors import BadInput, ContextOverflow
from hanpaca.core.sampling import Sampling


class Load:
    """Requests of every kind from many threads and one event loop, with the end that each must have."""

    def __init__(self, engine, seed):
        self.engine, self.random, self.lock = engine, random.Random(seed), threading.Lock()
        self.problems = []
        document = [1, *(self.random.randrange(3, 290) for _ in range(400))]
        self.prefixes = [document[:length] for length in (1, 5, 100, 400)]

    def plan(self):
        with self.lock:
            kind = self.random.choice(["whole", "whole", "cancel", "stop", "grammar", "oversize", "empty"])
            tail = [self.random.randrange(3, 290) for _ in range(self.random.choice([0, 1, 30, 500]))]
            tokens = (self.random.choice(self.prefixes) + tail)[:1000]
            return kind, tokens, self.random.randrange(1, 24), self.random.random()

    def check(self, kind, ok, *what):
        if not ok:
            self.problems.append((kind, *what))

    def one(self):
        kind, tokens, new, chance = self.plan()
        sampling = Sampling(max_tokens=new, temperature=chance, seed=int(chance * 1000))
        try:
            if kind == "oversize":
                tokens = [1] * 2000
            elif kind == "empty":
                tokens = []
            elif kind == "stop":
                sampling = sampling.replace(stop=("e", "the"))
            elif kind == "grammar":
                sampling = sampling.replace(grammar="root ::= [a-z]+")
            stream = streams.stream(self.engine, Request(tokens, sampling))
            if kind == "cancel":
                next(stream)
                stream.close()
                return
            deltas = list(stream)
            text, usage = "".join(delta.text for delta in deltas), deltas[-1].usage
            self.check(kind, kind in ("whole", "stop", "grammar"), "an answer where an error was due")
            assert usage
            self.check(kind, usage.completion_tokens <= new and usage.prompt_tokens == len(tokens), usage)
            expected = {"length"} if usage.completion_tokens == new else {"stop"}
            self.check(kind, deltas[-1].finish_reason in expected | {"stop"}, deltas[-1])
            self.check(kind, kind != "grammar" or text.isalpha() or not text, text)
            self.check(kind, kind != "stop" or "e" not in text, text)
        except ContextOverflow as error:
            self.check(kind, kind == "oversize", error)
        except BadInput as error:
            self.check(kind, kind == "empty", error)
        except StopIteration:
            self.check(kind, kind == "cancel", "ended early")

    def threads(self, count, each):
        def work():
            for _ in range(each):
                try:
                    self.one()
                except Exception as error:
                    self.problems.append(("unexpected", error))

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
            assert not thread.is_alive(), "a request does not end"


def test_two_thousand_mixed_requests(tiny_file):
    engine = open_engine(tiny_file, threads=1, running=24, prefix_memory=4 << 20)
    load, process = Load(engine, seed=1), psutil.Process()
    load.threads(16, 13)
    before = process.memory_info().rss
    load.threads(16, 100)

    async def at_once(count):
        requests = [Request(load.plan()[1], Sampling(max_tokens=4, seed=1)) for _ in range(count)]
        tasks = [asyncio.create_task(streams.acomplete(engine, [request])) for request in requests]
        await asyncio.sleep(0.02)
        for task in tasks[::5]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for _ in range(4):
        for result in asyncio.run(at_once(50)):
            assert isinstance(result, list | asyncio.CancelledError), result
    assert not load.problems, load.problems[:5]
    assert process.memory_info().rss <= before * 1.05
    engine.close()


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
