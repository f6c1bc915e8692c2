"""Ingest: any number of files in, every one of them in exactly one state at the end; see `BatchClient.ingest`."""
