"""From sources to HDF5, and from HDF5 to shards and batches: rank numbers are plain ints here."""
