"""Encoders: one view of a vision transformer, whichever library it comes from."""
