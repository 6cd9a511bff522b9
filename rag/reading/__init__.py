"""One module per format, each with `read(data, name, encoding) -> Document`. `rag.readers` is the way in."""
