"""Pure maths on tensors: cameras, pointmaps, registration; no network, no file."""
