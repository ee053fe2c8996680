"""`python -m encas` is `encas`."""

from encas.cli import main

main()
