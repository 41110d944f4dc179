"""The pipelines of today's video generators in diffusers, with the 3D head as one more component."""
