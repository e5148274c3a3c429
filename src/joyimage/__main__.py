"""`python -m joyimage`: the `joyimage` command of this interpreter."""

import sys

from joyimage.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
