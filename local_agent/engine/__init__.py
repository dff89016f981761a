"""Everything that touches torch: devices, weights, forward passes, sampling."""
