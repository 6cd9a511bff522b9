"""The folder that the host is given, and the prompt template in it. Knows neither models nor the host's modules."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "text_generation_webui"
"""What is installed: script.py, README.md, the template."""
NAME = "Chinese-Alpaca-2"
"""The template's name in the host; the file is NAME.yaml."""
FILE = FOLDER / f"{NAME}.yaml"


def template_text() -> str:
    """The template itself, in Jinja."""
    import yaml

    return str(yaml.safe_load(FILE.read_text(encoding="utf-8"))["instruction_template"])
