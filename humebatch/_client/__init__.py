"""Floor 3: what callers do. Flows over the transport; no aiohttp here."""
