"""Floor 1: what the bytes mean. No event loop, no sockets, no files."""
