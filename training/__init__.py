"""The joint training script, its configuration and losses."""
