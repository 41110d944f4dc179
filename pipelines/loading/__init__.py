"""Folders and repositories of pipelines: checked loading, saving with a card, LoRA, assembling from parts."""
