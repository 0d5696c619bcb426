"""`python -m yolor_d2` is `yolor-d2`."""

import sys

from .cli import main

sys.exit(main())
