"""Training of the 3D head, and of LoRA layers, on generators of diffusers: what differs from JOG3R's own transformer."""
