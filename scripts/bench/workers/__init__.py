"""Processes of a bench: each is started with `python -m`, prints one line of JSON at its end, and leaves."""
