"""What the system talks about: pure values and rules, no I/O, no settings, no clock of its own.

Events and their header, errors, transactions and their identity, the normaliser, messages, rows of tabs.
Everything may import it; it imports nothing of ours outside itself.
"""
