"""The broker: one connection at a time, and what comes in over it."""
