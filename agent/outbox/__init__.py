"""The durable queue between the device and the broker."""
