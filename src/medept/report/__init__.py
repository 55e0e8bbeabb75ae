"""Pages and figures for people to read: of a fit, and of a data check."""
