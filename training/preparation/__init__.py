"""What `prepare.py` needs: its options, shards that survive a kill, the fingerprint of models, and masks of believable depth."""
