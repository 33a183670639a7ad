"""The update path: receive, verify, stage, trial, activate. Its room; the work comes with signed releases."""
