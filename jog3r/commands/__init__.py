"""The command `jog3r`: one module a command, the parser, and what the commands share."""
