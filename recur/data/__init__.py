"""From files to tensors: tables, tokens, subwords, vocabularies, batches by length, streams, word vectors."""

from recur.data.aligned import AlignedFiles
from recur.data.batches import Batch, LengthBatches, PairBatch, PairBatches
from recur.data.frames import FrameBatches, Frames
from recur.data.measured import Layout, Measured, read_measured
from recur.data.reber import (
    embedded_reber,
    embedded_reber_table,
    is_embedded_reber,
    is_reber,
    write_reber_files,
)
from recur.data.sequences import Sequences, SequenceWriter, truncate
from recur.data.series import Panel, SeriesColumns, read_panel
from recur.data.stream import StreamFile, StreamWindows, Window, write_stream
from recur.data.subwords import Subwords
from recur.data.tables import Table, column_names, fingerprint, read_table
from recur.data.tagged import Sentence, TagColumns, TaggedFile
from recur.data.text import Tokenizer, guess_kind
from recur.data.vectors import WordVectors, one_hot_table, read_vectors
from recur.data.vocabulary import PAD, UNKNOWN, Indexer, Vocabulary, index_tokens

__all__ = [
    "PAD",
    "UNKNOWN",
    "AlignedFiles",
    "Batch",
    "FrameBatches",
    "Frames",
    "Indexer",
    "Layout",
    "LengthBatches",
    "Measured",
    "PairBatch",
    "PairBatches",
    "Panel",
    "Sentence",
    "SequenceWriter",
    "Sequences",
    "SeriesColumns",
    "StreamFile",
    "StreamWindows",
    "Subwords",
    "Table",
    "TagColumns",
    "TaggedFile",
    "Tokenizer",
    "Vocabulary",
    "Window",
    "WordVectors",
    "column_names",
    "embedded_reber",
    "embedded_reber_table",
    "fingerprint",
    "guess_kind",
    "index_tokens",
    "is_embedded_reber",
    "is_reber",
    "one_hot_table",
    "read_measured",
    "read_panel",
    "read_table",
    "read_vectors",
    "truncate",
    "write_reber_files",
    "write_stream",
]
