"""The page in the browser: from images without labels to predictions, on this machine alone."""
