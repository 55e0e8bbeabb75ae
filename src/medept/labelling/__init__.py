"""Labels that a reader gives, which images to label next, and what more labels would bring."""
