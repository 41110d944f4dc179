"""What is evaluated: windows of videos of any source, procedural scenes, fixed lists, predictions that somebody else made."""
