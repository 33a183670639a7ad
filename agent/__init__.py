"""edge-agent: captures frames, runs TFLite models on them, publishes what it found over MQTT."""

__version__ = "0.1.0"
