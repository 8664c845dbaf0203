"""`python -m sweep.cli` is `famba-sweep`."""

import sys

from sweep.cli.main import main

sys.exit(main())
