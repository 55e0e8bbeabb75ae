"""What a fit leaves on the disk; the names of its files stand here and nowhere else."""
