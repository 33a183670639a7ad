"""`make soak`: the real daemon between real servers, for as long as you like, while one thing after another fails."""
