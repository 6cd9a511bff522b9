"""Extending a model's vocabulary: train pieces, add them to its tokenizer, grow its embeddings, measure the gain.

`pieces` is for sentencepiece models, `byte_level` for byte-level BPE, `grow` for the weights, `report` for figures.
"""
