"""What a visitor sees: texts, style, pieces of HTML."""
