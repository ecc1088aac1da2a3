"""Curation: hierarchical k-means on embeddings of any number, and how often each sample is drawn."""
