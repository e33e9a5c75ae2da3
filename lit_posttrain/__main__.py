"""`python -m lit_posttrain` is `lit-posttrain`."""

import sys

from lit_posttrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
