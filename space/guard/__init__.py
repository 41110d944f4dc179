"""What keeps the Space standing: limits, the gate in front of it, files and uploads, clean-up."""
