"""The soak: the whole road on real servers, a fault every second, and a verdict (`python3 scripts/dev.py soak`).

One file a subject: what is written (`load`), what is done to it (`faults`), who applies it (`projectors`), who tells
right from wrong (`verifier`). Not here: mistakes to be planted (`tests/helpers/planted*.py`), and tests.
"""
