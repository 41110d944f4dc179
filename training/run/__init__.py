"""What surrounds the steps of a run: processes, checkpoints, logs, failures, samples and results."""
