"""Files that launch clusters; shipped in the wheel."""
