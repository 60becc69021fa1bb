"""The bytes of one Zarr shard, as the codec ``sharding_indexed`` of Zarr v3 defines them.

A shard is its encoded inner chunks one after the other and then an index: offset and length of
each chunk as little-endian uint64, with a CRC-32C. One inner chunk holds one sample, zstd level 1,
followed by a CRC-32C of its own, because zstd alone lets a flipped bit through as wrong numbers.

zarr-python writes the same bytes (a test compares them) but schedules every chunk as a coroutine,
which at 3 kB per chunk takes about ten times as long as the compression does; benchmarks/
zarr_writing.py measures it. Reading is left to zarr-python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEVEL = 1
"""Of zstd: on relevance in float32, level 3 saves no space worth 1.5 times the time."""

ABSENT = np.uint64(2**64 - 1)
"""Offset and length of an inner chunk that is not stored; readers put the fill value there."""


def chunk_codecs() -> tuple[Any, ...]:
    """Return the codecs of one chunk, as zarr-python names them."""
    return (BytesCodec(), ZstdCodec(level=LEVEL), Crc32cCodec())


def sharding(chunk_shape: tuple[int, ...]) -> ShardingCodec:
    """Return the codec of a shard of such chunks, as zarr-python names it."""
    return ShardingCodec(chunk_shape=chunk_shape, codecs=chunk_codecs())


def encode_chunk(values: NDArray[Any], zstd: Zstd | None = None) -> bytes:
    """Return one chunk: zstd, then CRC-32C."""
    compressed = bytes((zstd or Zstd(level=LEVEL)).encode(_little_endian(values)))
    return compressed + _crc(compressed)


def encode_shard(samples: Sequence[NDArray[Any]], n_chunks: int) -> bytes:
    """Return a shard of `n_chunks` inner chunks, the first of which are the samples.

    Parameters
    ----------
    samples
        One array per inner chunk.
    n_chunks
        Chunks in a full shard; the last shard of an array may have fewer samples.
    """
    index = np.full((n_chunks, 2), ABSENT, dtype="<u8")
    chunks = []
    offset, zstd = 0, Zstd(level=LEVEL)
    for position, values in enumerate(samples):
        chunk = encode_chunk(values, zstd)
        index[position] = (offset, len(chunk))
        offset += len(chunk)
        chunks.append(chunk)
    stored_index = index.tobytes()
    return b"".join((*chunks, stored_index, _crc(stored_index)))


def _crc(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(4, "little")


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
