"""What a device learns from its own frames: hard ones that are kept, drift that is told, labels that make a head.

frame + evidence -> watch.py: is it hard? does it drift? -> service.py (a thread) -> samples.py: a bounded folder
commands label, samples, personalize -> service.py -> the outbox, or learner.py -> a bundle with a head
"""
