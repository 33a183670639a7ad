"""A model and how it runs."""
