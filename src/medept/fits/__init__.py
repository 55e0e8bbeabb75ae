"""The files that a fit leaves in its folder: their names, writers and readers."""
