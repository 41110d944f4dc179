"""Results to bytes to files."""
