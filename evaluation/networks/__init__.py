"""Frozen networks whose features judge pictures and clips from outside."""
