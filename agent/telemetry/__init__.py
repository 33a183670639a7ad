"""The device's own state."""
