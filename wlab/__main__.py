"""`python -m wlab` is `wlab`."""

import sys

from wlab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
