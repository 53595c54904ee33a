"""Clips in tar shards, for corpora larger than memory and disk: an index, an order, a cache, and their makers."""
