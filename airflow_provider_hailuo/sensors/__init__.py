"""Sensors of the Hailuo provider."""
