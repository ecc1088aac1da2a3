"""Few-label evaluation: budgets, frozen arms, metrics, statistics, and what pretraining saw."""
