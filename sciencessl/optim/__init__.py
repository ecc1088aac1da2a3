"""Optimiser, parameter groups, schedules and the moving-average target. Schedules are pure functions of the step."""
