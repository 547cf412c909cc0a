"""`python -m kylo_outbox` is `kylo-outbox`."""

from kylo_outbox.cli import main

main()
