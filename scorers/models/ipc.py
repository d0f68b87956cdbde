"""Arrow batches as bytes, for pickling.

Pickling a slice writes all of the batch it was cut from; Arrow's own format writes the slice.
"""

from __future__ import annotations

import pyarrow as pa


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """The batch as an Arrow stream, its schema included."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.RecordBatch:
    """The batch of `to_ipc`."""
    return pa.ipc.open_stream(data).read_next_batch()
