"""The one thing that we ask of the C allocator."""

from __future__ import annotations

__all__ = ["keep_freed_blocks"]


def keep_freed_blocks(size: int) -> None:
    """Make the C allocator keep blocks of up to `size` bytes for the next one, instead of giving them to the kernel.

    glibc maps blocks from 128 KiB on one by one and trims its heap as early, so that each block of a loop is page
    faults again: half the speed over TLS, a third of the time of tables. Its thresholds rise, for good and to at most
    twice the size, with the first larger mapped block that is freed (mallopt(3), M_MMAP_THRESHOLD). Other allocators
    do not care. The block is zeroed by the kernel, if ever: nothing of it is touched.
    """
    bytes(size)
