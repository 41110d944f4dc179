"""`python -m jog3r` is the same as the command `jog3r`."""

import sys

from jog3r.commands.parser import main

if __name__ == "__main__":
    sys.exit(main())
