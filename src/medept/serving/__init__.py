"""Fitted adapters handed on: a file that runs without medept."""
