"""What `jog3r reconstruct` and `jog3r register` are made of."""
