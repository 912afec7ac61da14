"""`python -m sepcli`: the same as `sepcli`, where that is not on the PATH."""

import sys

from sepcli.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
