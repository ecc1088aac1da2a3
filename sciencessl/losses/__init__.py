"""Losses as pure functions on tensors: no state, no randomness, no collective, no host synchronisation."""
