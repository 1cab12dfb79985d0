"""Side-by-side runs against the peers: one file per claim, each prints ratios. Never part of the tests."""
