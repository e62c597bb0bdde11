"""The canonical graph and what is made of it before any target is known."""
