"""The names of those that are compared, beside the peers, which have their own."""

LOCKSTEP = "Lockstep"
# The matrix products of a step and nothing else.
PRODUCTS = "products"
