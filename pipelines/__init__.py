"""Diffusers pipelines: inference only."""
