"""Peers: other ways to train the same network; no other package may import what they need."""
