"""`make tiny`: the stages that make the bundled checkpoint from nothing."""
