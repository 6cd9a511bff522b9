"""Chinese LLaMA-2 / Alpaca-2, and any LLaMA-architecture model, as a part of the tools you already use.

>>> import hanpaca                                                     # doctest: +SKIP
>>> with hanpaca.load("smollm2") as model:                             # doctest: +SKIP
...     print(model.chat([hanpaca.Message("user", "What is a llama?")]).text)
"""

from .core import Completion, Delta, HanpacaError, Message, Model, Sampling, Usage, load

__version__ = "0.1.0"
__all__ = ["Completion", "Delta", "HanpacaError", "Message", "Model", "Sampling", "Usage", "load"]
