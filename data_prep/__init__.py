"""Data preparation: whatever a field has on disk -> one sealed store. Organised by operation, not by field."""
