"""What a visitor sees: texts, style, pieces of HTML and the 3D viewer."""
