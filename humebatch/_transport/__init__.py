"""Floor 2: how bytes move. The only client-side code that touches the network and the file system."""
