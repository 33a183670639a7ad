"""The commands, one module each: `main(args) -> exit code`."""
