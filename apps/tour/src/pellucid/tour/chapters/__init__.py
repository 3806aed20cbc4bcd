"""One module a method; each has `run(setting) -> Chapter`."""
