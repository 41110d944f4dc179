"""One Hugging Face `evaluate` module."""
