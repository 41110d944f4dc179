"""What `prepare.py` needs: its options, shards that survive a kill, hashes of models, and masks of believable depth."""
