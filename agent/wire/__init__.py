"""What goes over the broker: topics and payloads. Shared with `tools/`."""
