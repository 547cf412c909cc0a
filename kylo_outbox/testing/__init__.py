"""What tests of this project and of its users need: real servers to throw away (`servers`), as pytest fixtures.

May not live here: anything that the product imports.
"""
