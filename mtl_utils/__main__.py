"""`python -m mtl_utils` is the command `mtl`."""

from mtl_utils.cli import main

main()
