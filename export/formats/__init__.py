"""One module a file format: a scene in, bytes out."""
