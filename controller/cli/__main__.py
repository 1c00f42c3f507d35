"""`python -m controller.cli`."""

from controller.cli.app import main

main()
