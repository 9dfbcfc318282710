"""Ranks: communicators, the ordered reduction, launching and failing together."""
