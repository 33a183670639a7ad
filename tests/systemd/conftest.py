"""Tests under a real systemd: `make test-systemd` runs them in a guest of their own, nothing else collects them."""

import os

if "EDGE_AGENT_SYSTEMD" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
