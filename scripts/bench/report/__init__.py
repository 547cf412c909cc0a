"""What people look at: one JSON file, one page, and the tables of `docs/performance.md`, all from the same run."""
