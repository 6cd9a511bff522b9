"""Training: continued pre-training on text, instruction tuning, preference optimisation.

`options` says what a run is, `run` carries it out; the other modules are its data, its model and its records.
"""
