"""How good a model is, measured: perplexity, and how it holds up over long contexts."""
