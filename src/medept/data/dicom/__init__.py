"""DICOM files: recognising them, whose they are, and their frames as a display shows them."""
