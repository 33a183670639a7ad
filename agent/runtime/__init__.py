"""What any daemon needs and nothing of frames or models."""
