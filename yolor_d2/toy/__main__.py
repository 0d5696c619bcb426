"""`python -m yolor_d2.toy`."""

from . import main

main()
