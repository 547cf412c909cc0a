"""Other relays beside ours: reference ones written here, and adapters for programs that must be installed."""
