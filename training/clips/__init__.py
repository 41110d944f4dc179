"""What a training step eats: streams of clips, drawn or cached, and how a step divides them among processes."""
